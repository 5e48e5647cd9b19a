"""What paho-mqtt does through a transport: paho_transport.py SCHEME HOST PORT VERSION PREFIX CAFILE [CERT KEY].

SCHEME is mqtts, ws or wss. Ends with status 0 when everything came back that was sent.
"""

import queue
import sys
import threading

import paho.mqtt.client as mqtt

SCHEME, HOST, PORT, VERSION, PREFIX, CAFILE = sys.argv[1:7]
CERT, KEY = sys.argv[7:9] if len(sys.argv) > 8 else (None, None)
ARRIVES_S = 60

messages = queue.Queue()
connected, subscribed, gone = threading.Event(), threading.Event(), threading.Event()
reasons = []


def on_connect(_client, _data, _flags, reason, _properties):
    reasons.append(reason)
    connected.set()


client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2,
    client_id=PREFIX,
    protocol={"31": mqtt.MQTTv31, "311": mqtt.MQTTv311, "5": mqtt.MQTTv5}[VERSION],
    transport="websockets" if SCHEME in ("ws", "wss") else "tcp",
    reconnect_on_failure=False,
)
if SCHEME in ("mqtts", "wss"):
    client.tls_set(ca_certs=CAFILE, certfile=CERT, keyfile=KEY)
client.on_connect = on_connect
client.on_subscribe = lambda *_: subscribed.set()
client.on_message = lambda _client, _data, message: messages.put(message)
client.on_disconnect = lambda *_: gone.set()
client.connect(HOST, int(PORT), keepalive=30)
client.loop_start()
assert connected.wait(ARRIVES_S), "no CONNACK"
assert not reasons[0].is_failure, reasons[0]
client.subscribe(PREFIX + "/#", qos=2)
assert subscribed.wait(ARRIVES_S), "no SUBACK"
for qos in (0, 1, 2):
    for size in (0, 10, 125, 126, 70_000, 1 << 20):
        payload = bytes(n % 251 for n in range(size))
        client.publish(f"{PREFIX}/{qos}", payload, qos=qos)
        message = messages.get(timeout=ARRIVES_S)
        assert message.payload == payload, (qos, size)
client.disconnect()
assert gone.wait(ARRIVES_S), "no end"
client.loop_stop()
