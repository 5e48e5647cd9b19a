// What MQTT.js does through a transport: mqttjs_transport.js SCHEME HOST PORT VERSION PREFIX CAFILE [CERT KEY].
//
// SCHEME is mqtts, ws or wss. Ends with status 0 when everything came back that was sent.
'use strict'

const assert = require('node:assert')
const fs = require('node:fs')
const mqtt = require('mqtt')

const [scheme, host, port, version, prefix, cafile, cert, key] = process.argv.slice(2)
const protocolVersion = { 31: 3, 311: 4, 5: 5 }[version]
const ARRIVES_MS = 60000

function within (promise, what) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: too late`)), ARRIVES_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

async function main () {
  const client = mqtt.connect(`${scheme}://${host}:${port}/mqtt`, {
    protocolVersion,
    protocolId: protocolVersion === 3 ? 'MQIsdp' : 'MQTT',
    clientId: prefix,
    reconnectPeriod: 0,
    ca: fs.readFileSync(cafile),
    cert: cert && fs.readFileSync(cert),
    key: key && fs.readFileSync(key)
  })
  await within(new Promise((resolve, reject) => {
    client.once('connect', resolve)
    client.once('error', reject)
  }), 'CONNACK')
  const messages = []
  let wake = () => {}
  client.on('message', (topic, payload) => {
    messages.push(payload)
    wake()
  })
  await within(client.subscribeAsync(`${prefix}/#`, { qos: 2 }), 'SUBACK')
  for (const qos of [0, 1, 2]) {
    for (const size of [0, 10, 125, 126, 70000, 1 << 20]) {
      const payload = Buffer.alloc(size, 'sensor')
      await within(client.publishAsync(`${prefix}/${qos}`, payload, { qos }), 'PUBACK')
      while (messages.length === 0) {
        await within(new Promise((resolve) => { wake = resolve }), `QoS ${qos}, ${size} bytes`)
      }
      assert.ok(messages.shift().equals(payload), `QoS ${qos}, ${size} bytes`)
    }
  }
  await within(client.endAsync(), 'the end')
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
