// Checks API tokens by the standards alone. npm install jose
import { inflateSync } from 'node:zlib'
import * as jose from 'jose'

const { ISSUER, AUDIENCE, VAULT_TOKEN } = process.env
const keys = jose.createRemoteJWKSet(new URL(`${ISSUER}/oauth/jwks`))
const bounds = ['token_bound_cidrs', 'bound_hosts', 'bound_regions']
const lists = new Map() // URI of a status list -> when to read it again, and its bits

async function answerOf(url, options) {
  const response = await fetch(url, { signal: AbortSignal.timeout(5000), redirect: 'error', ...options })
  if (!response.ok) throw new Error(`${url}: ${response.status}`)
  return response
}

async function revoked({ uri, idx }) {
  if (!(Date.now() < lists.get(uri)?.until)) {
    const text = await (await answerOf(uri)).text()
    const { payload } = await jose.jwtVerify(text, keys, { subject: uri, typ: 'statuslist+jwt', requiredClaims: ['exp'] })
    const bits = inflateSync(Buffer.from(payload.status_list.lst, 'base64url'), { maxOutputLength: 1 << 20 })
    lists.set(uri, { until: Date.now() + payload.ttl * 1000, bits })
  }
  return (lists.get(uri).bits[idx >> 3] >> (idx & 7)) & 1
}

async function introspect(token, client_ip, host) {
  const body = new URLSearchParams({ token, audience: AUDIENCE, client_ip, host })
  return (await answerOf(`${ISSUER}/oauth/introspect`, { method: 'POST', body, headers: { authorization: `Bearer ${VAULT_TOKEN}` } })).json()
}

const covers = (granted, scope) =>
  granted === '*' || granted === scope ||
  (granted.endsWith(':*') && scope.startsWith(granted.slice(0, -1)) && scope.length >= granted.length)

// check returns the status of the answer, 200 if the token is good, and what the token says.
export async function check(token, scope, client_ip, host) {
  try {
    let claims
    if (token.split('.').length === 3) {
      const options = { issuer: ISSUER, audience: AUDIENCE, typ: 'at+jwt', requiredClaims: ['exp', 'sub'] }
      claims = (await jose.jwtVerify(token, keys, options)).payload
      if (claims.status && (await revoked(claims.status.status_list))) return [401]
    }
    if (!claims || bounds.some(bound => bound in claims['urn:vault-apitoken'])) claims = await introspect(token, client_ip, host)
    if (claims.active === false || claims.cnf) return [401] // cnf: bound to a key, and this recipe checks no proof
    return [claims.scope.split(' ').some(granted => covers(granted, scope)) ? 200 : 403, claims]
  } catch (error) {
    const noAnswer = !(error instanceof jose.errors.JOSEError) || ['ERR_JWKS_TIMEOUT', 'ERR_JOSE_GENERIC'].includes(error.code)
    if (noAnswer) return [503] // nothing can be checked: never let the request pass
    return [401]
  }
}
