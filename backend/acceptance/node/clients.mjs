// Drives the mount with OAuth clients that this project has not written. The environment brings ISSUER,
// VAULT_TOKEN of a caller that may introspect and revoke, JWT (of the audience "api" with the scopes
// orders:read and orders:write), JWT_REVOKED, REFRESH_TOKEN (of a grant with the scope orders:read),
// and ROTATE, a command that rotates the keys and issues the next JWT.
import assert from 'node:assert/strict'
import { execSync } from 'node:child_process'
import { inflateSync } from 'node:zlib'

import { StatusList, getListFromStatusListJWT, getStatusListFromJWT } from '@sd-jwt/jwt-status-list'
import * as jose from 'jose'
import * as oauth from 'oauth4webapi'
import * as client from 'openid-client'

const { ISSUER, VAULT_TOKEN, JWT, JWT_REVOKED, REFRESH_TOKEN, ROTATE } = process.env
const insecure = { [oauth.allowInsecureRequests]: true } // loopback
const exchangeGrant = 'urn:ietf:params:oauth:grant-type:token-exchange'
const accessTokenType = 'urn:ietf:params:oauth:token-type:access_token'

// Callers of introspection and revocation are authenticated by Vault.
const asVault = (_as, _client, _body, headers) => headers.set('authorization', `Bearer ${VAULT_TOKEN}`)

async function test(name, f) {
  await f()
  console.log('ok', name)
}

await test('oauth4webapi: discovery, introspection, revocation, JWT access tokens', async () => {
  const issuer = new URL(ISSUER)
  const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, insecure))
  const me = { client_id: 'api' }

  const use = new Request('https://api.example.com/orders', { headers: { authorization: `Bearer ${JWT}` } })
  const claims = await oauth.validateJwtAccessToken(as, use, 'api', insecure)
  assert.equal(claims.scope, 'orders:read orders:write')
  await assert.rejects(oauth.validateJwtAccessToken(as, use, 'another-api', insecure))

  const introspect = async token =>
    oauth.processIntrospectionResponse(as, me, await oauth.introspectionRequest(as, me, asVault, token, insecure))
  const answer = await introspect(JWT)
  assert.equal(answer.active, true)
  assert.equal(answer.client_id, 'orders')
  assert.deepEqual(await introspect(JWT_REVOKED), { active: false })
  assert.deepEqual(await introspect('noise'), { active: false })

  await oauth.processRevocationResponse(await oauth.revocationRequest(as, me, asVault, 'noise', insecure))
})

await test('jose and a status list decoder: revocation seen offline', async () => {
  const keys = jose.createRemoteJWKSet(new URL(`${ISSUER}/oauth/jwks`))
  const revoked = async token => {
    await jose.jwtVerify(token, keys, { issuer: ISSUER, audience: 'api', typ: 'at+jwt' })
    const { idx, uri } = getStatusListFromJWT(token)
    const response = await fetch(uri)
    assert.equal(response.headers.get('content-type'), 'application/statuslist+jwt')
    const list = await response.text()
    const { payload } = await jose.jwtVerify(list, keys, { subject: uri, typ: 'statuslist+jwt' })

    const status = getListFromStatusListJWT(list).getStatus(idx)
    const bytes = inflateSync(Buffer.from(payload.status_list.lst, 'base64url'))
    assert.equal((bytes[idx >> 3] >> (idx & 7)) & 1, status, 'two decoders agree')
    assert.equal(StatusList.decompressStatusList(payload.status_list.lst, 1).getStatus(idx), status)
    return status === 1
  }
  assert.equal(await revoked(JWT), false)
  assert.equal(await revoked(JWT_REVOKED), true)

  // The same key set object, across a rotation.
  const next = execSync(ROTATE, { encoding: 'utf8' }).trim()
  assert.notEqual(jose.decodeProtectedHeader(next).kid, jose.decodeProtectedHeader(JWT).kid)
  assert.equal(await revoked(next), false)
  assert.equal(await revoked(JWT), false)
})

await test('openid-client: discovery, refresh with reuse detection, exchange, revocation', async () => {
  const options = { execute: [client.allowInsecureRequests] }
  const config = await client.discovery(new URL(ISSUER), 'mobile', undefined, client.None(), options)
  const api = await client.discovery(new URL(ISSUER), 'api', undefined, asVault, options)
  const active = async token => (await client.tokenIntrospection(api, token)).active

  const first = await client.refreshTokenGrant(config, REFRESH_TOKEN)
  assert.equal(first.token_type.toLowerCase(), 'bearer')
  assert.equal(first.scope, 'orders:read orders:write')
  assert.equal(await active(first.access_token), true)
  assert.equal(await active(first.refresh_token), false)

  const narrow = await client.genericGrantRequest(config, exchangeGrant, {
    subject_token: first.access_token, subject_token_type: accessTokenType, scope: 'orders:read',
  })
  assert.equal(narrow.scope, 'orders:read')
  assert.equal(narrow.issued_token_type, accessTokenType)
  assert.equal(await active(narrow.access_token), true)
  await assert.rejects(
    client.genericGrantRequest(config, exchangeGrant, {
      subject_token: narrow.access_token, subject_token_type: accessTokenType, scope: 'orders:write',
    }),
    { error: 'invalid_scope' },
  )

  const second = await client.refreshTokenGrant(config, first.refresh_token)
  await assert.rejects(client.refreshTokenGrant(config, REFRESH_TOKEN), { error: 'invalid_grant' })
  await assert.rejects(client.refreshTokenGrant(config, second.refresh_token), { error: 'invalid_grant' })
  for (const token of [first.access_token, second.access_token, narrow.access_token]) {
    assert.equal(await active(token), false)
  }
  await client.tokenRevocation(api, second.access_token)
})
