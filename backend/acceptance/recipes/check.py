# Checks API tokens by the standards alone. pip install "pyjwt[crypto]"
import base64, json, os, time, urllib.error, urllib.parse, urllib.request, zlib
import jwt

ISSUER, AUDIENCE = os.environ["ISSUER"], os.environ["AUDIENCE"]
KEYS = jwt.PyJWKClient(ISSUER + "/oauth/jwks")
BOUNDS = ("token_bound_cidrs", "bound_hosts", "bound_regions")
lists = {}  # URI of a status list -> (when to read it again, its bits)

def verified(text, typ, **more):
    key = KEYS.get_signing_key_from_jwt(text).key
    if jwt.get_unverified_header(text).get("typ") != typ:
        raise jwt.InvalidTokenError("typ")
    return jwt.decode(text, key, algorithms=["ES256", "EdDSA", "RS256"], options={"require": ["exp", "sub"]}, **more)

def revoked(uri, idx):
    if time.time() >= lists.get(uri, (0, b""))[0]:
        claims = verified(urllib.request.urlopen(uri, timeout=5).read(1 << 20).decode(), "statuslist+jwt")
        if claims["sub"] != uri:
            raise jwt.InvalidTokenError("another status list")
        packed = base64.urlsafe_b64decode(claims["status_list"]["lst"] + "==")
        lists[uri] = time.time() + claims["ttl"], zlib.decompressobj().decompress(packed, 1 << 20)
    return lists[uri][1][idx >> 3] >> (idx & 7) & 1

def introspect(token, client_ip, host):
    form = urllib.parse.urlencode({"token": token, "audience": AUDIENCE, "client_ip": client_ip, "host": host}).encode()
    request = urllib.request.Request(ISSUER + "/oauth/introspect", form, {"Authorization": "Bearer " + os.environ["VAULT_TOKEN"]})
    return json.load(urllib.request.urlopen(request, timeout=5))

def covers(granted, scope):
    return granted in ("*", scope) or granted.endswith(":*") and scope.startswith(granted[:-1]) and len(scope) >= len(granted)

def check(token, scope, client_ip, host):
    """Returns the status of the answer, 200 if the token is good, and what the token says."""
    try:
        claims = None
        if token.count(".") == 2:
            claims = verified(token, "at+jwt", issuer=ISSUER, audience=AUDIENCE)
            place = claims.get("status", {}).get("status_list")
            if place and revoked(place["uri"], place["idx"]):
                return 401, None
        if claims is None or any(bound in claims["urn:vault-apitoken"] for bound in BOUNDS):
            claims = introspect(token, client_ip, host)
        if not claims.get("active", True) or "cnf" in claims:  # cnf: bound to a key, and this recipe checks no proof
            return 401, None
        return (200 if any(covers(granted, scope) for granted in claims["scope"].split()) else 403), claims
    except urllib.error.URLError:
        return 503, None  # nothing can be checked: never let the request pass
    except jwt.PyJWTError as error:
        return (503 if isinstance(error.__context__, urllib.error.URLError) else 401), None
