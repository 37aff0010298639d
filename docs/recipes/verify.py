"""Checks a token by the standards alone, with PyJWT: verify.py TOKEN SCOPE prints what the token says, or why not."""
import base64, json, os, sys, time, urllib.parse, urllib.request, zlib
import jwt

ISSUER, AUDIENCE, ALGORITHMS = os.environ["ISSUER"], os.environ["AUDIENCE"], ["ES256", "EdDSA", "RS256"]
keys = jwt.PyJWKClient(ISSUER + "/oauth/jwks", lifespan=300)
lists = {}  # URI of a status list -> (when to fetch the list again, its bytes, the bits for each token)

def covers(granted, wanted):  # "orders:*" covers "orders:read"; "*" covers all
    return any(g == wanted or g.endswith("*") and wanted.startswith(g[:-1]) for g in granted)

def verified(text, typ, **checks):
    if jwt.get_unverified_header(text).get("typ") != typ:
        raise jwt.InvalidTokenError("typ is not " + typ)
    return jwt.decode(text, keys.get_signing_key_from_jwt(text).key, ALGORITHMS, **checks)

def status(idx, uri):
    if uri not in lists or lists[uri][0] < time.time():
        claims = verified(urllib.request.urlopen(uri, timeout=5).read().decode(), "statuslist+jwt")
        if claims["sub"] != uri or not uri.startswith(ISSUER + "/"):
            raise jwt.InvalidTokenError("the status list is another one")
        packed = claims["status_list"]["lst"]
        unpacked = zlib.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
        lists[uri] = time.time() + claims["ttl"], unpacked, claims["status_list"]["bits"]
    _, list, bits = lists[uri]
    return list[idx * bits // 8] >> idx * bits % 8 & (1 << bits) - 1

def check(token, scope):  # -> claims; PermissionError: answer 403; jwt.InvalidTokenError: 401; anything else: 503
    if token.count(".") == 2:
        claims = verified(token, "at+jwt", audience=AUDIENCE, issuer=ISSUER, options={"require": ["exp", "iat", "jti"]})
        if "status" in claims and status(**claims["status"]["status_list"]):
            raise jwt.InvalidTokenError("the token is revoked or suspended")
        if "cnf" in claims or any(name.endswith(("cidrs", "hosts", "regions")) for name in claims["urn:vault-apitoken"]):
            raise PermissionError("the token is bound, and this API does not check bounds")
    else:
        form = urllib.parse.urlencode({"token": token, "audience": AUDIENCE}).encode()
        caller = {"Authorization": "Bearer " + os.environ["VAULT_TOKEN"]}
        claims = json.load(urllib.request.urlopen(urllib.request.Request(ISSUER + "/oauth/introspect", form, caller), timeout=5))
        if not claims["active"]:
            raise jwt.InvalidTokenError("the token is not active")
        if "cnf" in claims:
            raise PermissionError("the token is bound to a key, and this API checks no proof")
    if not covers(claims["scope"].split(), scope):
        raise PermissionError("the token lacks the scope " + scope)
    return claims

if __name__ == "__main__":
    try:
        print("200", json.dumps(check(sys.argv[1], sys.argv[2])))
    except PermissionError as e:
        print("403", e)
    except jwt.InvalidTokenError as e:
        print("401", e)
    except Exception as e:
        print("503", e)
