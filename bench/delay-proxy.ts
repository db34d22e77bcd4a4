/** A TCP proxy that delays every byte by a fixed time in each direction, in a process of its own: PORT TARGET_PORT DELAY_MS. */
import { connect, createServer, type Socket } from "node:net";

const [listenPort = "0", targetPort = "0", delay = "10"] = process.argv.slice(2);
const delayMs = Number(delay);

function relay(from: Socket, to: Socket): void {
  let pendingBytes = 0;
  from.on("data", (part: Buffer) => {
    pendingBytes += part.length;
    // A delay line as long as the bandwidth-delay product of a fast link; beyond it the sender is held back.
    if (pendingBytes > 64 * 1024 * 1024) from.pause();
    setTimeout(() => {
      pendingBytes -= part.length;
      to.write(part);
      if (pendingBytes < 32 * 1024 * 1024) from.resume();
    }, delayMs);
  });
  from.on("end", () => setTimeout(() => to.end(), delayMs));
  from.on("error", () => to.destroy());
}

createServer({ noDelay: true }, (client) => {
  const upstream = connect({ port: Number(targetPort), host: "127.0.0.1", noDelay: true });
  relay(client, upstream);
  relay(upstream, client);
}).listen(Number(listenPort), "127.0.0.1", () => process.stdout.write("ready\n"));
