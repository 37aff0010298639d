// Checks a token by the standards alone, with jose: node verify.mjs TOKEN SCOPE prints what the token says, or why not.
import { createRemoteJWKSet, jwtVerify, errors } from 'jose'
import { inflateSync } from 'node:zlib'

const { ISSUER, AUDIENCE, VAULT_TOKEN } = process.env
const keys = createRemoteJWKSet(new URL(ISSUER + '/oauth/jwks'), { cooldownDuration: 30_000 })
const lists = new Map() // URI of a status list -> when to fetch the list again, its bytes, and the bits for each token

class Forbidden extends Error {}

// "orders:*" covers "orders:read"; "*" covers all
const covers = (granted, wanted) => granted.some((g) => g === wanted || (g.endsWith('*') && wanted.startsWith(g.slice(0, -1))))

async function status({ idx, uri }) {
  if (!lists.has(uri) || lists.get(uri).until < Date.now()) {
    if (!uri.startsWith(ISSUER + '/')) throw new errors.JWTInvalid('the status list is of another issuer')
    const answer = await fetch(uri, { signal: AbortSignal.timeout(5000) })
    const { payload } = await jwtVerify(await answer.text(), keys, { typ: 'statuslist+jwt', subject: uri })
    const bytes = inflateSync(Buffer.from(payload.status_list.lst, 'base64url'))
    lists.set(uri, { until: Date.now() + payload.ttl * 1000, bytes, bits: payload.status_list.bits })
  }
  const { bytes, bits } = lists.get(uri)
  return (bytes[(idx * bits) >> 3] >> ((idx * bits) & 7)) & ((1 << bits) - 1)
}

// check returns the claims. Forbidden: answer 403; errors.JOSEError: 401; anything else: 503.
export async function check(token, scope) {
  let claims
  if (token.split('.').length === 3) {
    const required = ['exp', 'iat', 'jti']
    ;({ payload: claims } = await jwtVerify(token, keys, { typ: 'at+jwt', issuer: ISSUER, audience: AUDIENCE, requiredClaims: required }))
    if (claims.status && (await status(claims.status.status_list))) throw new errors.JWTInvalid('the token is revoked or suspended')
    const bound = Object.keys(claims['urn:vault-apitoken']).some((name) => /(cidrs|hosts|regions)$/.test(name))
    if (claims.cnf || bound) throw new Forbidden('the token is bound, and this API does not check bounds')
  } else {
    const body = new URLSearchParams({ token, audience: AUDIENCE })
    const headers = { authorization: 'Bearer ' + VAULT_TOKEN }
    const answer = await fetch(ISSUER + '/oauth/introspect', { method: 'POST', body, headers, signal: AbortSignal.timeout(5000) })
    if (!answer.ok) throw new Error('introspection answers ' + answer.status)
    claims = await answer.json()
    if (!claims.active) throw new errors.JWTInvalid('the token is not active')
    if (claims.cnf) throw new Forbidden('the token is bound to a key, and this API checks no proof')
  }
  if (!covers(claims.scope.split(' '), scope)) throw new Forbidden('the token lacks the scope ' + scope)
  return claims
}

try {
  console.log('200', JSON.stringify(await check(process.argv[2], process.argv[3])))
} catch (e) {
  console.log(e instanceof Forbidden ? '403' : e instanceof errors.JOSEError ? '401' : '503', e.message)
}
