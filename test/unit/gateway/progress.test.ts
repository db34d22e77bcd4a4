/** Progress as server-sent events. */
import { expect } from "chai";
import { progressViewSchema } from "../../../src/gateway/schemas.ts";
import type { Progress } from "../../../src/drive/drive-api.ts";
import { errorOf, useGateway } from "./use-gateway.ts";

const progress = (phase: Progress["phase"], transferredBytes: number): Progress => ({
  id: "",
  kind: "upload",
  phase,
  sizeBytes: 10,
  transferredBytes,
  copiedBytes: [transferredBytes, 0, 0],
  errorReason: phase === "failed" ? "NO_SPACE" : undefined,
});

describe("GET /api/progress/:id", () => {
  const at = useGateway({ watchIntervalMs: 20, watchCountMax: 1 });

  it("sends each state as an event and ends by itself", async () => {
    at.drive.progress = [progress("receiving", 3), progress("sealing", 10), progress("done", 10)];
    const response = await at.fetch("/api/progress/42");
    expect(response.headers.get("content-type")).to.equal("text/event-stream; charset=utf-8");
    const events = (await response.text())
      .split("\n\n")
      .filter((event) => event.startsWith("event: progress\n"));
    const states = events.map((event) =>
      progressViewSchema.parse(JSON.parse(event.split("data: ")[1] ?? "")),
    );
    expect(states.map((state) => [state.id, state.phase, state.transferredBytes])).to.deep.equal([
      ["42", "receiving", 3],
      ["42", "sealing", 10],
      ["42", "done", 10],
    ]);
  });

  it("says why a transfer failed", async () => {
    at.drive.progress = [progress("failed", 3)];
    expect(await (await at.fetch("/api/progress/42")).text()).to.include('"errorReason":"NO_SPACE"');
  });

  it("answers an unknown or malformed id with an ordinary error", async () => {
    expect(await errorOf(await at.fetch("/api/progress/42"))).to.equal("404 UPLOAD_NOT_FOUND");
    at.drive.progress = [progress("done", 3)];
    expect((await at.fetch(`/api/progress/${"a".repeat(64)}`)).status).to.equal(200);
    expect(await errorOf(await at.fetch(`/api/progress/${"a".repeat(65)}`))).to.equal("400 ARGUMENT_INVALID");
  });

  it("keeps a silent stream alive, counts watchers, and tells the drive when one goes away", async () => {
    at.drive.progress = [progress("receiving", 3)];
    const aborter = new AbortController();
    const response = await at.fetch("/api/progress/42", { signal: aborter.signal });
    const reader = response.body?.getReader() as ReadableStreamDefaultReader<Uint8Array>;
    let text = "";
    while (!text.includes("\n\n:\n\n")) text += Buffer.from((await reader.read()).value ?? []).toString();
    expect(await errorOf(await at.fetch("/api/progress/43"))).to.equal("429 OVERLOADED");
    aborter.abort();
    let status = 429;
    at.drive.progress = [progress("done", 3)];
    while (status === 429) status = (await at.fetch("/api/progress/43")).status;
    expect(status).to.equal(200);
  });

  it("ends at once when the gateway stops", async () => {
    at.drive.progress = [progress("receiving", 3)];
    const response = await at.fetch("/api/progress/42");
    await at.gateway.stop();
    const outcome = await response.text().then(
      () => "ended",
      () => "broken",
    );
    expect(["ended", "broken"]).to.include(outcome);
  });
});
