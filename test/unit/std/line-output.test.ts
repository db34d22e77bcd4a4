/** Lines to an output that fails, is slow, or takes a part: nobody waits, nobody ends, and what was dropped is said. */
import { expect } from "chai";
import { WAITING_SIZE_BYTES_MAX, LineOutput } from "../../../src/std/line-output.ts";

/** An output whose next writes are taken whole (undefined), in part (a count), or fail (a code). */
class Output {
  text = "";
  callCount = 0;
  next: () => number | string | undefined = () => undefined;
  readonly resumed: number[] = [];
  readonly lines = new LineOutput({
    write: (bytes) => {
      this.callCount += 1;
      const what = this.next();
      if (typeof what === "string") throw Object.assign(new Error(what), { code: what });
      const taken = Math.min(bytes.length, what ?? bytes.length);
      this.text += Buffer.from(bytes.subarray(0, taken)).toString();
      return taken;
    },
    onResumed: (droppedCount) => {
      this.resumed.push(droppedCount);
      this.lines.write("resumed\n");
    },
  });
}

describe("LineOutput", () => {
  it("writes each line at once, whole although the output takes it in parts", () => {
    const output = new Output();
    output.next = () => 3;
    output.lines.write("first line\n");
    expect(output.text).to.equal("first line\n");
    expect(output.lines.waitingSizeBytes).to.equal(0);
  });

  for (const code of ["ENOSPC", "EFBIG", "EIO", "EPIPE"]) {
    it(`drops lines at ${code}, and says how many once they are taken again`, () => {
      const output = new Output();
      output.next = () => code;
      output.lines.write("lost 1\n");
      output.lines.write("lost 2\n");
      output.next = () => undefined;
      output.lines.write("kept\n");
      output.lines.write("too\n");
      expect(output.text).to.equal("kept\nresumed\ntoo\n");
      expect(output.resumed).to.deep.equal([2]);
    });
  }

  it("begins a new line after one that was cut off", () => {
    const output = new Output();
    const answers = [4, "ENOSPC"];
    output.next = () => answers.shift();
    output.lines.write("cut off\n");
    output.lines.write("kept\n");
    expect(output.text).to.equal("cut \nkept\nresumed\n");
  });

  it("keeps lines in order for a slow reader", () => {
    const output = new Output();
    output.next = () => "EAGAIN";
    output.lines.write("a\n");
    output.lines.write("b\n");
    expect(output.text).to.equal("");
    output.next = () => undefined;
    output.lines.write("c\n");
    expect(output.text).to.equal("a\nb\nc\n");
    expect(output.resumed).to.deep.equal([]);
  });

  it("keeps 1 MiB for one, drops the line beyond, and never tries more than twice a line", () => {
    const output = new Output();
    output.next = () => "EAGAIN";
    const line = `${"x".repeat(1023)}\n`;
    for (let count = 0; count < WAITING_SIZE_BYTES_MAX / 1024; count += 1) output.lines.write(line);
    expect(output.lines.waitingSizeBytes).to.equal(WAITING_SIZE_BYTES_MAX);
    const callsBefore = output.callCount;
    output.lines.write("\n");
    expect(output.lines.waitingSizeBytes).to.equal(WAITING_SIZE_BYTES_MAX);
    expect(output.callCount - callsBefore).to.be.at.most(2);
    output.next = () => undefined;
    output.lines.write("z\n");
    expect(output.resumed).to.deep.equal([1]);
    expect(output.text).to.equal(`${line.repeat(1024)}z\nresumed\n`);
  });
});
