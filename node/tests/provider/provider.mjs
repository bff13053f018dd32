// oidc-provider, which is certified, on loopback, with some people. First line of standard output: its issuer identifier.
//
// POST /test, JSON: what a test wants of it.
//   {"rotate": true}                     signs with another key from now on, and has forgotten the one before
//   {"skew": SECONDS}                    its clock is ahead by so much
//   {"disable": LOGIN}                   knows that person no more
//   {"claims": {LOGIN: {...}}}           says something else of a person
//   {"conform": true}                    says in ID tokens who somebody is, and all else at its userinfo endpoint
//   {"access": LOGIN}                    an access token of that person; answers it as text
//   {"mint": {"claims", "alg", "typ"}}   a token of its own key, with whatever claims; answers it as text

import { generateKeyPairSync, createHmac } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';
import { SignJWT, importJWK } from 'jose';

const people = {
  sam: { email: 'sam.okafor@contoso.com', email_verified: true, name: 'Sam Okafor', job_title: 'IT Support' },
  maria: { email: 'maria.lopez@contoso.com', email_verified: true, name: 'Maria Lopez', job_title: 'Accountant' },
  eve: { email: 'sam.okafor@contoso.com', email_verified: false, name: 'Sam Okafor', job_title: 'IT Support' },
  jo: { email: 'jo@fabrikam.com', email_verified: true, name: 'Jo Park', job_title: 'Consultant' },
};
const disabled = new Set();
let skew = 0;
let conform = false;
const now = Date.now;
Date.now = () => now() + skew * 1000;

let number = 0;
let key;
function rotate() {
  number += 1;
  const pair = number % 2 ? generateKeyPairSync('rsa', { modulusLength: 2048 }) : generateKeyPairSync('ec', { namedCurve: 'P-256' });
  key = { ...pair.privateKey.export({ format: 'jwk' }), kid: `key-${number}`, use: 'sig', alg: number % 2 ? 'RS256' : 'ES256' };
  return { keys: [key] };
}

const server = createServer();
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

function client(client_id, alg) {
  return {
    client_id,
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    id_token_signed_response_alg: alg,
    redirect_uris: ['http://127.0.0.1/callback'],
    response_types: ['code'],
    grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
  };
}

let provider;
function provide(jwks) {
  provider = new Provider(issuer, {
    jwks,
    clients: [client('remora', key.alg), client('another', key.alg)],
    cookies: { keys: ['of a test'] },
    conformIdTokenClaims: conform,
    claims: { email: ['email', 'email_verified'], profile: ['name', 'job_title'] },
    features: { devInteractions: { enabled: true }, deviceFlow: { enabled: true }, revocation: { enabled: true } },
    pkce: { required: () => true },
    findAccount: (_, id) => (disabled.has(id) || !people[id] ? undefined : { accountId: id, claims: () => ({ sub: id, ...people[id] }) }),
  });
  return provider.callback();
}

async function mint({ claims, alg, typ }) {
  const seconds = Math.floor(Date.now() / 1000);
  const all = { iss: issuer, aud: 'remora', iat: seconds, exp: seconds + 600, sub: 'sam', ...people.sam, ...claims };
  const head = { alg: alg ?? key.alg, kid: key.kid, typ: typ ?? 'JWT' };
  const text = (object) => Buffer.from(JSON.stringify(object)).toString('base64url');
  const message = `${text(head)}.${text(all)}`;
  if (head.alg === 'none') return `${message}.`;
  if (head.alg === 'HS256') {
    // With what everybody knows for a secret.
    const { kty, kid, n, e, crv, x, y } = key;
    const secret = JSON.stringify({ kty, kid, n, e, crv, x, y });
    return `${message}.${createHmac('sha256', secret).update(message).digest('base64url')}`;
  }
  return new SignJWT(all).setProtectedHeader(head).sign(await importJWK(key, key.alg));
}

async function access(accountId) {
  const scope = 'openid profile email';
  const grant = new provider.Grant({ accountId, clientId: 'remora' });
  grant.addOIDCScope(scope);
  const grantId = await grant.save();
  const client = await provider.Client.find('remora');
  return new provider.AccessToken({ accountId, client, grantId, scope, gty: 'authorization_code' }).save();
}

async function control(wish) {
  if (wish.rotate) handler = provide(rotate());
  if (wish.skew !== undefined) skew = wish.skew;
  if (wish.conform) {
    conform = true;
    handler = provide({ keys: [key] });
  }
  if (wish.disable) disabled.add(wish.disable);
  for (const [login, claims] of Object.entries(wish.claims ?? {})) Object.assign(people[login], claims);
  if (wish.access) return access(wish.access);
  return wish.mint ? mint(wish.mint) : 'done';
}

let handler = provide(rotate());
server.on('request', async (request, response) => {
  if (request.url !== '/test') return handler(request, response);
  let text = '';
  for await (const part of request) text += part;
  response.setHeader('connection', 'close');
  response.end(await control(JSON.parse(text)));
});
console.log(issuer);
