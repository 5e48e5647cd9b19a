"""What paho-mqtt does against a broker: paho_scenario.py HOST PORT VERSION PREFIX LARGE_MIB.

VERSION is 31, 311 or 5. PREFIX begins every topic and client identifier, so that runs do not meet.
Ends with status 0 when everything was as MQTT says, else with the first thing that was not.
"""

import queue
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HOST, PORT, VERSION, PREFIX, LARGE_MIB = (
    sys.argv[1],
    int(sys.argv[2]),
    {"31": mqtt.MQTTv31, "311": mqtt.MQTTv311, "5": mqtt.MQTTv5}[sys.argv[3]],
    sys.argv[4],
    int(sys.argv[5]),
)
V5 = VERSION == mqtt.MQTTv5
ARRIVES_S = 60
ABSENT_S = 0.5


class Client:
    """A connected client whose messages wait in a queue."""

    def __init__(self, name, clean=True, will=None):
        self.messages = queue.Queue()
        self.connected = threading.Event()
        self.subscribed = threading.Event()
        self.session_present = False
        options = {} if V5 else {"clean_session": clean}
        self.paho = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=PREFIX + name,
            protocol=VERSION,
            reconnect_on_failure=False,
            **options,
        )
        self.paho.max_inflight_messages_set(20)
        self.paho.on_message = lambda _client, _data, message: self.messages.put(message)
        self.paho.on_connect = self._on_connect
        self.paho.on_subscribe = self._on_subscribe
        if will:
            self.paho.will_set(*will)
        options = {}
        if V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 600
            options = {"clean_start": clean, "properties": properties}
        self.paho.connect(HOST, PORT, keepalive=30, **options)
        self.paho.loop_start()
        assert self.connected.wait(ARRIVES_S), f"{name}: no CONNACK"
        assert self.reason == 0, f"{name}: refused with {self.reason}"

    def _on_connect(self, _client, _data, flags, reason, _properties):
        self.session_present = flags.session_present
        self.reason = reason
        self.connected.set()

    def _on_subscribe(self, _client, _data, _mid, reasons, _properties):
        self.granted = [code.value for code in reasons]
        self.subscribed.set()

    def subscribe(self, topic, qos):
        self.paho.subscribe(PREFIX + topic, qos)
        assert self.subscribed.wait(ARRIVES_S), f"{topic}: no SUBACK"
        assert self.granted == [qos], f"{topic}: granted {self.granted}"
        self.subscribed.clear()

    def publish(self, topic, payload, qos=0, retain=False, properties=None):
        info = self.paho.publish(PREFIX + topic, payload, qos, retain, properties)
        info.wait_for_publish(ARRIVES_S)
        assert info.is_published(), f"{topic}: QoS {qos} was not acknowledged"

    def next(self):
        try:
            return self.messages.get(timeout=ARRIVES_S)
        except queue.Empty:
            raise AssertionError("a message did not arrive") from None

    def expect(self, topic, payload, qos, retain=False):
        message = self.next()
        assert message.topic == PREFIX + topic, f"{message.topic} instead of {topic}"
        assert message.payload == payload, f"{topic}: a payload of {len(message.payload)} bytes"
        assert message.qos == qos, f"{topic}: QoS {message.qos} instead of {qos}"
        assert message.retain == retain, f"{topic}: retain {message.retain}"
        return message

    def expect_nothing(self):
        try:
            message = self.messages.get(timeout=ABSENT_S)
        except queue.Empty:
            return
        raise AssertionError(f"{message.topic} came, and nothing should have")

    def close(self):
        self.paho.disconnect()
        self.paho.loop_stop()

    def vanish(self):
        """Closes the socket without DISCONNECT."""
        self.paho.loop_stop()
        self.paho.socket().close()


def every_qos():
    subscriber = Client("sub")
    subscriber.subscribe("q/#", 2)
    publisher = Client("pub")
    for qos in (0, 1, 2):
        for n in range(20):
            publisher.publish(f"q/{qos}", f"{qos}-{n}".encode(), qos)
    for qos in (0, 1, 2):
        for n in range(20):
            subscriber.expect(f"q/{qos}", f"{qos}-{n}".encode(), qos)
    subscriber.expect_nothing()
    subscriber.close()
    publisher.close()


def retained():
    publisher = Client("pub")
    publisher.publish("r/kept", b"kept", 1, retain=True)
    publisher.publish("r/gone", b"gone", 1, retain=True)
    publisher.publish("r/gone", b"", 1, retain=True)
    subscriber = Client("sub")
    subscriber.subscribe("r/+", 1)
    subscriber.expect("r/kept", b"kept", 1, retain=True)
    subscriber.expect_nothing()
    publisher.publish("r/kept", b"live", 1, retain=True)
    subscriber.expect("r/kept", b"live", 1)
    publisher.publish("r/kept", b"", 1, retain=True)
    subscriber.close()
    publisher.close()


def will():
    watcher = Client("watch")
    watcher.subscribe("w/#", 2)
    polite = Client("polite", will=(PREFIX + "w/polite", b"not sent", 1))
    polite.close()
    victim = Client("victim", will=(PREFIX + "w/victim", b"last words", 2))
    victim.vanish()
    watcher.expect("w/victim", b"last words", 2)
    watcher.expect_nothing()
    watcher.close()


def persistent_session():
    keeper = Client("keep", clean=False)
    assert not keeper.session_present
    keeper.subscribe("s/#", 2)
    keeper.close()
    publisher = Client("pub")
    for n in range(40):
        publisher.publish(f"s/{n % 2}", str(n).encode(), 1 + n % 2)
    publisher.close()
    keeper = Client("keep", clean=False)
    assert V5 or VERSION == mqtt.MQTTv31 or keeper.session_present, "the session is gone"
    came = [keeper.next() for _ in range(40)]
    # The client hands QoS 2 over at PUBREL, so the order holds within a topic only.
    for qos in (1, 2):
        payloads = [int(message.payload) for message in came if message.qos == qos]
        assert payloads == list(range(qos - 1, 40, 2)), f"QoS {qos}: {payloads}"
    keeper.expect_nothing()
    keeper.close()
    # Leaves nothing behind.
    Client("keep", clean=True).close()


def large(mib):
    payload = bytes(range(256)) * (mib << 12)
    subscriber = Client("sub")
    subscriber.subscribe("large", 1)
    publisher = Client("pub")
    publisher.publish("large", payload, 1)
    subscriber.expect("large", payload, 1)
    subscriber.close()
    publisher.close()


def properties():
    subscriber = Client("sub")
    subscriber.subscribe("p", 1)
    sent = Properties(PacketTypes.PUBLISH)
    sent.UserProperty = [("a", "1"), ("a", "2")]
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "answers"
    sent.CorrelationData = b"\x00\x01"
    sent.MessageExpiryInterval = 60
    publisher = Client("pub")
    publisher.publish("p", b"x", 1, properties=sent)
    came = subscriber.expect("p", b"x", 1).properties
    assert came.UserProperty == [("a", "1"), ("a", "2")], came.UserProperty
    assert came.ContentType == "text/plain" and came.ResponseTopic == "answers"
    assert came.CorrelationData == b"\x00\x01"
    assert 58 <= came.MessageExpiryInterval <= 60, came.MessageExpiryInterval
    subscriber.close()
    publisher.close()


every_qos()
retained()
will()
persistent_session()
large(1)
if LARGE_MIB:
    large(LARGE_MIB)
if V5:
    properties()
