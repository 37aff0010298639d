// An OAuth 2.0 server: client credentials with RFC 8707 resources, introspection and revocation. It prints its
// URL and runs until it is killed.
import { Provider } from 'oidc-provider';

const provider = new Provider('http://127.0.0.1', {
  clients: [
    {
      client_id: 'vault:engine', // what has to be encoded in an Authorization header
      client_secret: 'secret of the engine/+%',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      scope: 'orders:read',
    },
    {
      client_id: 'api',
      client_secret: 'secret of the API',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    },
  ],
  scopes: ['orders:read', 'orders:write'],
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: () => true },
    devInteractions: { enabled: false },
  },
  ttl: { ClientCredentials: 600 },
});

const server = provider.listen(0, '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
