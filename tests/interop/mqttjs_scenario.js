// What MQTT.js does against a broker: mqttjs_scenario.js HOST PORT VERSION PREFIX LARGE_MIB.
//
// VERSION is 31, 311 or 5. Ends with status 0 when everything was as MQTT says.
'use strict'

const assert = require('node:assert')
const mqtt = require('mqtt')

const [host, port, version, prefix, largeMib] = process.argv.slice(2)
const protocolVersion = { 31: 3, 311: 4, 5: 5 }[version]
const v5 = protocolVersion === 5
const ARRIVES_MS = 60000
const ABSENT_MS = 500

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

function within (promise, what) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: too late`)), ARRIVES_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

class Client {
  // A connected client whose messages wait in a queue.
  static async connect (name, { clean = true, will } = {}) {
    const self = new Client()
    self.messages = []
    self.wake = () => {}
    const options = {
      host,
      port: Number(port),
      protocol: 'mqtt',
      protocolVersion,
      protocolId: protocolVersion === 3 ? 'MQIsdp' : 'MQTT',
      clientId: prefix + name,
      clean,
      will,
      keepalive: 30,
      reconnectPeriod: 0,
      resubscribe: false
    }
    if (v5) options.properties = { sessionExpiryInterval: clean ? 0 : 600 }
    self.client = mqtt.connect(options)
    self.client.on('message', (topic, payload, packet) => {
      self.messages.push({ topic, payload, qos: packet.qos, retain: packet.retain, properties: packet.properties })
      self.wake()
    })
    self.connack = await within(new Promise((resolve, reject) => {
      self.client.once('connect', resolve)
      self.client.once('error', reject)
    }), `${name}: CONNACK`)
    return self
  }

  async subscribe (topic, qos) {
    const granted = await within(this.client.subscribeAsync(prefix + topic, { qos }), `${topic}: SUBACK`)
    assert.deepStrictEqual(granted.map((grant) => grant.qos), [qos])
  }

  publish (topic, payload, options = {}) {
    return within(this.client.publishAsync(prefix + topic, payload, options), `${topic}: acknowledgement`)
  }

  async next (what) {
    while (this.messages.length === 0) {
      await within(new Promise((resolve) => { this.wake = resolve }), what)
    }
    return this.messages.shift()
  }

  async expect (topic, payload, qos, retain = false) {
    const message = await this.next(topic)
    assert.strictEqual(message.topic, prefix + topic)
    assert.ok(message.payload.equals(Buffer.from(payload)), `${topic}: a payload of ${message.payload.length} bytes`)
    assert.strictEqual(message.qos, qos, `${topic}: QoS`)
    assert.strictEqual(message.retain, retain, `${topic}: retain`)
    return message
  }

  async expectNothing () {
    await sleep(ABSENT_MS)
    assert.deepStrictEqual(this.messages.map((message) => message.topic), [])
  }

  close () {
    return within(this.client.endAsync(), 'close')
  }

  vanish () {
    // Closes the socket without DISCONNECT.
    this.client.on('error', () => {})
    this.client.stream.destroy()
  }
}

async function everyQos () {
  const subscriber = await Client.connect('sub')
  await subscriber.subscribe('q/#', 2)
  const publisher = await Client.connect('pub')
  for (const qos of [0, 1, 2]) {
    for (let n = 0; n < 20; n++) await publisher.publish(`q/${qos}`, `${qos}-${n}`, { qos })
  }
  for (const qos of [0, 1, 2]) {
    for (let n = 0; n < 20; n++) await subscriber.expect(`q/${qos}`, `${qos}-${n}`, qos)
  }
  await subscriber.expectNothing()
  await subscriber.close()
  await publisher.close()
}

async function retained () {
  const publisher = await Client.connect('pub')
  await publisher.publish('r/kept', 'kept', { qos: 1, retain: true })
  await publisher.publish('r/gone', 'gone', { qos: 1, retain: true })
  await publisher.publish('r/gone', '', { qos: 1, retain: true })
  const subscriber = await Client.connect('sub')
  await subscriber.subscribe('r/+', 1)
  await subscriber.expect('r/kept', 'kept', 1, true)
  await subscriber.expectNothing()
  await publisher.publish('r/kept', '', { qos: 1, retain: true })
  await subscriber.expect('r/kept', '', 1)
  await subscriber.close()
  await publisher.close()
}

async function will () {
  const watcher = await Client.connect('watch')
  await watcher.subscribe('w/#', 2)
  const polite = await Client.connect('polite', { will: { topic: prefix + 'w/polite', payload: 'not sent', qos: 1 } })
  await polite.close()
  const victim = await Client.connect('victim', { will: { topic: prefix + 'w/victim', payload: 'last words', qos: 2 } })
  victim.vanish()
  await watcher.expect('w/victim', 'last words', 2)
  await watcher.expectNothing()
  await watcher.close()
}

async function persistentSession () {
  let keeper = await Client.connect('keep', { clean: false })
  assert.ok(!keeper.connack.sessionPresent)
  await keeper.subscribe('s/#', 2)
  await keeper.close()
  const publisher = await Client.connect('pub')
  for (let n = 0; n < 40; n++) await publisher.publish(`s/${n % 2}`, String(n), { qos: 1 + n % 2 })
  keeper = await Client.connect('keep', { clean: false })
  assert.ok(protocolVersion === 3 || keeper.connack.sessionPresent, 'the session is gone')
  const came = []
  for (let n = 0; n < 40; n++) came.push(await keeper.next(`offline message ${n}`))
  // The client hands QoS 2 over at PUBREL, so the order holds within a topic only.
  for (const qos of [1, 2]) {
    const payloads = came.filter((message) => message.qos === qos).map((message) => Number(message.payload))
    assert.deepStrictEqual(payloads, Array.from({ length: 20 }, (_, n) => 2 * n + qos - 1))
  }
  await keeper.expectNothing()
  await keeper.close()
  await publisher.close()
  await (await Client.connect('keep')).close()
}

async function large (mib) {
  const payload = Buffer.alloc(mib << 20, Buffer.from(Array.from({ length: 256 }, (_, n) => n)))
  const subscriber = await Client.connect('sub')
  await subscriber.subscribe('large', 1)
  const publisher = await Client.connect('pub')
  await publisher.publish('large', payload, { qos: 1 })
  await subscriber.expect('large', payload, 1)
  await subscriber.close()
  await publisher.close()
}

async function properties () {
  const subscriber = await Client.connect('sub')
  await subscriber.subscribe('p', 1)
  const publisher = await Client.connect('pub')
  const sent = {
    userProperties: { a: ['1', '2'] },
    contentType: 'text/plain',
    responseTopic: 'answers',
    correlationData: Buffer.from([0, 1])
  }
  await publisher.publish('p', 'x', { qos: 1, properties: sent })
  const came = (await subscriber.expect('p', 'x', 1)).properties
  assert.deepStrictEqual({ ...came.userProperties }, sent.userProperties)
  assert.strictEqual(came.contentType, 'text/plain')
  assert.strictEqual(came.responseTopic, 'answers')
  assert.ok(came.correlationData.equals(sent.correlationData))
  await subscriber.close()
  await publisher.close()
}

async function main () {
  await everyQos()
  await retained()
  await will()
  await persistentSession()
  await large(1)
  if (Number(largeMib) > 0) await large(Number(largeMib))
  if (v5) await properties()
}

main().then(() => process.exit(0), (error) => {
  console.error(error)
  process.exit(1)
})
