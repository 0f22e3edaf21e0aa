// A webhook receiver that believes only what is signed. WEBHOOK_SECRET=whsec_… node verify_webhook.mjs [port]

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const maxBytes = 1024 * 1024; // of a body; what the service sends is far smaller
const secret = Buffer.from(process.env.WEBHOOK_SECRET.replace(/^whsec_/, ""), "base64");

function isGenuine(headers, body) {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp || NaN)) <= 300)) {
    return false; // an old message, sent again by somebody else
  }
  const digest = createHmac("sha256", secret).update(`${id}.${timestamp}.`).update(body).digest("base64");
  const expected = Buffer.from(`v1,${digest}`);
  // There are two signatures for a day after the secret was rotated.
  const signatures = (headers["webhook-signature"] ?? "").split(" ").map((text) => Buffer.from(text));
  return signatures.some((signature) => signature.length === expected.length && timingSafeEqual(signature, expected));
}

const server = createServer((request, response) => {
  const chunks = [];
  let size = 0;
  request.on("data", (chunk) => {
    size += chunk.length;
    if (size <= maxBytes) {
      chunks.push(chunk);
    } else if (!response.headersSent) {
      // anybody may send anything
      response.writeHead(413, { connection: "close" }).end(() => request.destroy());
    }
  });
  request.on("end", () => {
    if (size > maxBytes) return;
    const body = Buffer.concat(chunks); // the bytes as they came, not JSON written anew
    const genuine = isGenuine(request.headers, body);
    response.writeHead(genuine ? 204 : 401).end();
    if (genuine) {
      // webhook-id is the same at every repetition: remember it, and act once
      console.log(request.headers["webhook-id"], JSON.parse(body).type);
    }
  });
});
server.listen(Number(process.argv[2] ?? 8000), "127.0.0.1", () => console.log("listening on", server.address().port));
