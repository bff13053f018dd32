// Stands between people and the desk at ARGV[0]: speaks TLS to both, with the certificate of ARGV[1] and the key of ARGV[2]; reads along.
// First line of standard output: where it listens; then a line for each time that somebody has said something through it.

import { readFileSync } from 'node:fs';
import { connect, createServer } from 'node:tls';

const [desk, cert, key] = process.argv.slice(2);
const [host, port] = desk.split(':');
const options = { cert: readFileSync(cert), key: readFileSync(key) };
const server = createServer(options, (person) => {
  const on = connect({ host, port, rejectUnauthorized: false });
  person.on('data', (bytes) => console.log(bytes.toString().split(' ').slice(0, 2).join(' ')));
  for (const end of [person, on]) end.on('error', () => {});
  person.pipe(on);
  on.pipe(person);
});
server.listen(0, '127.0.0.1', () => console.log(`127.0.0.1:${server.address().port}`));
