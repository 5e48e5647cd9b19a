// What MQTT.js does with enhanced authentication: mqttjs_scram.js HOST PORT PREFIX.
//
// SCRAM-SHA-256 (RFC 7677) with Node's cryptography: al's password is `secret` and has SCRAM keys; bo's has none. Ends with
// status 0 when al comes in, proves it again, and nobody else does.
'use strict'

const assert = require('node:assert')
const crypto = require('node:crypto')
const mqtt = require('mqtt')

const [host, port, prefix] = process.argv.slice(2)
const METHOD = 'SCRAM-SHA-256'
const ARRIVES_MS = 60000
let number = 0

function within (promise, what) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: too late`)), ARRIVES_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

const hmac = (key, text) => crypto.createHmac('sha256', key).update(text).digest()

/** One run of the client's side. */
class Scram {
  constructor (user, password) {
    this.password = password
    this.nonce = crypto.randomBytes(18).toString('base64').replace(/,/g, 'x')
    this.bare = `n=${user},r=${this.nonce}`
  }

  first () {
    return Buffer.from(`n,,${this.bare}`)
  }

  last (serverFirst) {
    const text = serverFirst.toString()
    const [nonce, salt, rounds] = text.split(',').map((field) => field.slice(2))
    assert.ok(nonce.startsWith(this.nonce) && nonce.length > this.nonce.length, 'the nonce grows')
    assert.ok(Number(rounds) >= 4096, 'RFC 7677 wants 4096 iterations')
    const salted = crypto.pbkdf2Sync(this.password, Buffer.from(salt, 'base64'), Number(rounds), 32, 'sha256')
    const clientKey = hmac(salted, 'Client Key')
    const storedKey = crypto.createHash('sha256').update(clientKey).digest()
    const withoutProof = `c=biws,r=${nonce}`
    const message = `${this.bare},${text},${withoutProof}`
    const signature = hmac(storedKey, message)
    const proof = Buffer.from(clientKey.map((byte, at) => byte ^ signature[at]))
    this.expected = `v=${hmac(hmac(salted, 'Server Key'), message).toString('base64')}`
    return Buffer.from(`${withoutProof},p=${proof.toString('base64')}`)
  }
}

const authPacket = (reasonCode, data) => ({
  cmd: 'auth',
  reasonCode,
  properties: { authenticationMethod: METHOD, authenticationData: data }
})

/** Resolves to the client and its run, or rejects with why it is not let in. */
function connect (user, password) {
  const run = new Scram(user, password)
  const client = mqtt.connect(`mqtt://${host}:${port}`, {
    protocolVersion: 5,
    clientId: `${prefix}${number++}`,
    reconnectPeriod: 0,
    properties: { authenticationMethod: METHOD, authenticationData: run.first() }
  })
  client.run = run
  client.handleAuth = (packet, done) => {
    if (packet.reasonCode === 0) {
      client.emit('again', packet)
      return done()
    }
    done(undefined, authPacket(0x18, client.run.last(packet.properties.authenticationData)))
  }
  const connected = new Promise((resolve, reject) => {
    client.once('connect', (connack) => resolve([client, connack]))
    client.once('error', reject)
    client.once('close', () => reject(new Error('closed')))
  })
  return within(connected, `${user}'s CONNACK`)
}

async function main () {
  const [client, connack] = await connect('al', 'secret')
  // The server proves that it knows the password too.
  assert.strictEqual(connack.properties.authenticationMethod, METHOD)
  assert.strictEqual(connack.properties.authenticationData.toString(), client.run.expected)

  // Twice again on the same connection, with messages in between.
  await within(client.subscribeAsync(`${prefix}/#`, { qos: 1 }), 'SUBACK')
  for (let n = 0; n < 2; n++) {
    client.run = new Scram('al', 'secret')
    const again = new Promise((resolve) => client.once('again', resolve))
    client._sendPacket(authPacket(0x19, client.run.first()))
    const message = new Promise((resolve) => client.once('message', resolve))
    await within(client.publishAsync(`${prefix}/t`, 'x', { qos: 1 }), 'PUBACK')
    await within(message, 'the message')
    const packet = await within(again, 'AUTH')
    assert.strictEqual(packet.properties.authenticationData.toString(), client.run.expected)
  }

  // Again, but without the password: the connection ends.
  client.run = new Scram('al', 'wrong')
  const gone = new Promise((resolve) => client.once('disconnect', resolve))
  client.on('error', () => {})
  client._sendPacket(authPacket(0x19, client.run.first()))
  assert.strictEqual((await within(gone, 'DISCONNECT')).reasonCode, 0x87)
  client.end(true)

  for (const [user, password] of [['al', 'wrong'], ['nobody', 'secret'], ['bo', 'secret']]) {
    await assert.rejects(connect(user, password), { code: 0x87 }, `${user} ${password}`)
  }
}

main().then(() => process.exit(0), (error) => {
  console.error(error)
  process.exit(1)
})
