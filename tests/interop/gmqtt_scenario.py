"""What gmqtt does against a broker: gmqtt_scenario.py HOST PORT VERSION PREFIX LARGE_MIB.

VERSION is 311 or 5. Ends with status 0 when everything was as MQTT says.
"""

import asyncio
import sys

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

HOST, PORT, VERSION, PREFIX, LARGE_MIB = (
    sys.argv[1],
    int(sys.argv[2]),
    {"311": MQTTv311, "5": MQTTv50}[sys.argv[3]],
    sys.argv[4],
    int(sys.argv[5]),
)
V5 = VERSION == MQTTv50
# gmqtt copies what it has of a packet with every read: its time grows with the square of the payload.
ARRIVES_S = 150
ABSENT_S = 0.5


class Client:
    """A client whose messages wait in a queue."""

    def __init__(self, name, clean=True, will=None):
        self.messages = asyncio.Queue()
        self.subscribed = asyncio.Event()
        options = {}
        if V5 and not clean:
            options["session_expiry_interval"] = 600
        if will:
            topic, payload, qos = will
            options["will_message"] = gmqtt.Message(PREFIX + topic, payload, qos=qos)
        self.gmqtt = gmqtt.Client(PREFIX + name, clean_session=clean, **options)
        self.gmqtt.set_config({"reconnect_retries": 0})
        self.gmqtt.on_message = self._on_message
        self.gmqtt.on_subscribe = self._on_subscribe

    async def connect(self):
        await asyncio.wait_for(self.gmqtt.connect(HOST, PORT, keepalive=30, version=VERSION), ARRIVES_S)
        return self

    def _on_message(self, _client, topic, payload, qos, properties):
        self.messages.put_nowait((topic, bytes(payload), qos, properties))
        return 0

    def _on_subscribe(self, _client, _mid, granted, _properties):
        self.granted = list(granted)
        self.subscribed.set()

    async def subscribe(self, topic, qos):
        self.gmqtt.subscribe(PREFIX + topic, qos=qos)
        await asyncio.wait_for(self.subscribed.wait(), ARRIVES_S)
        assert self.granted == [qos], f"{topic}: granted {self.granted}"
        self.subscribed.clear()

    async def publish(self, topic, payload, qos=0, retain=False, **properties):
        """Publishes and waits for the acknowledgement: gmqtt raises when Receive Maximum is reached."""
        self.gmqtt.publish(PREFIX + topic, payload, qos=qos, retain=retain, **properties)
        waited_s = 0
        while self.gmqtt._connection._protocol.id_generator._used_ids:
            await asyncio.sleep(0.005)
            waited_s += 0.005
            assert waited_s < ARRIVES_S, f"{topic}: QoS {qos} was not acknowledged"

    async def expect(self, topic, payload, qos, retain=False):
        came = await asyncio.wait_for(self.messages.get(), ARRIVES_S)
        assert came[0] == PREFIX + topic, f"{came[0]} instead of {topic}"
        assert came[1] == payload, f"{topic}: a payload of {len(came[1])} bytes"
        assert came[2] == qos, f"{topic}: QoS {came[2]} instead of {qos}"
        assert bool(came[3].get("retain")) == retain, f"{topic}: {came[3]}"
        return came[3]

    async def expect_nothing(self):
        try:
            came = await asyncio.wait_for(self.messages.get(), ABSENT_S)
        except asyncio.TimeoutError:
            return
        raise AssertionError(f"{came[0]} came, and nothing should have")

    async def close(self):
        await self.gmqtt.disconnect()

    def vanish(self):
        """Resets the connection without DISCONNECT."""
        self.gmqtt._connection._transport.abort()


async def every_qos():
    subscriber = await Client("sub").connect()
    await subscriber.subscribe("q/#", 2)
    publisher = await Client("pub").connect()
    for qos in (0, 1, 2):
        for n in range(20):
            await publisher.publish(f"q/{qos}", f"{qos}-{n}".encode(), qos)
    came = []
    for _ in range(60):
        came.append((await asyncio.wait_for(subscriber.messages.get(), ARRIVES_S))[:3])
    for qos in (0, 1, 2):
        topic = f"{PREFIX}q/{qos}"
        wanted = [(topic, f"{qos}-{n}".encode(), qos) for n in range(20)]
        assert [message for message in came if message[0] == topic] == wanted, came
    await subscriber.expect_nothing()
    await subscriber.close()
    await publisher.close()


async def retained():
    publisher = await Client("pub").connect()
    await publisher.publish("r/kept", b"kept", 1, retain=True)
    await publisher.publish("r/gone", b"gone", 1, retain=True)
    await publisher.publish("r/gone", b"", 1, retain=True)
    subscriber = await Client("sub").connect()
    await subscriber.subscribe("r/+", 1)
    await subscriber.expect("r/kept", b"kept", 1, retain=True)
    await subscriber.expect_nothing()
    await publisher.publish("r/kept", b"", 1, retain=True)
    await subscriber.expect("r/kept", b"", 1)
    await subscriber.close()
    await publisher.close()


async def will():
    watcher = await Client("watch").connect()
    await watcher.subscribe("w/#", 1)
    polite = await Client("polite", will=("w/polite", b"not sent", 1)).connect()
    await polite.close()
    victim = await Client("victim", will=("w/victim", b"last words", 1)).connect()
    victim.vanish()
    await watcher.expect("w/victim", b"last words", 1)
    await watcher.expect_nothing()
    await watcher.close()


async def persistent_session():
    keeper = await Client("keep", clean=False).connect()
    await keeper.subscribe("s/#", 2)
    await keeper.close()
    publisher = await Client("pub").connect()
    for n in range(40):
        await publisher.publish("s/x", str(n).encode(), 1)
    keeper = await Client("keep", clean=False).connect()
    for n in range(40):
        await keeper.expect("s/x", str(n).encode(), 1)
    await keeper.expect_nothing()
    await keeper.close()
    await publisher.close()
    await (await Client("keep").connect()).close()


async def large(mib):
    payload = bytes(range(256)) * (mib << 12)
    subscriber = await Client("sub").connect()
    await subscriber.subscribe("large", 1)
    publisher = await Client("pub").connect()
    await publisher.publish("large", payload, 1)
    await subscriber.expect("large", payload, 1)
    await subscriber.close()
    await publisher.close()


async def properties():
    subscriber = await Client("sub").connect()
    await subscriber.subscribe("p", 1)
    publisher = await Client("pub").connect()
    await publisher.publish("p", b"x", 1, user_property=("a", "1"), content_type="text/plain", response_topic="answers")
    came = await subscriber.expect("p", b"x", 1)
    assert came["user_property"] == [("a", "1")], came
    assert came["content_type"] == ["text/plain"] and came["response_topic"] == ["answers"], came
    await subscriber.close()
    await publisher.close()


async def main():
    await every_qos()
    await retained()
    await will()
    await persistent_session()
    await large(1)
    if LARGE_MIB:
        await large(LARGE_MIB)
    if V5:
        await properties()


asyncio.run(main())
