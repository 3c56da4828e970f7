// A receiver that verifies with a library of npm: `node library.mjs standardwebhooks|svix SECRET...`.
// As library.py, line for line; the packages are looked for in $RECEIVERS_NODE.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const [name, ...secrets] = process.argv.slice(2);
const { Webhook } = createRequire(`${process.env.RECEIVERS_NODE}/`)(name);

// The secrets, by their number, that verify a request.
function verifying(body, headers) {
  return secrets.flatMap((secret, number) => {
    try {
      new Webhook(secret).verify(body, headers);
      return [number];
    } catch (error) {
      if (error.name !== 'Error' && !/Verification/.test(error.constructor.name)) throw error;
      return [];
    }
  });
}

const server = createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const body = Buffer.concat(chunks).toString();
    const { headers } = request;
    const verified = verifying(body, headers);
    const attempt = Number(headers['x-kasplo-attempt']);
    const told = {
      id: headers['webhook-id'],
      timestamp: headers['webhook-timestamp'],
      attempt,
      verified,
      changed: verifying(body.replaceAll('c', 'k'), headers),
    };
    console.log(JSON.stringify(told));
    const status = verified.length === 0 ? 401 : attempt === 1 ? 503 : 200;
    response.writeHead(status, { 'Content-Length': 0 }).end();
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
