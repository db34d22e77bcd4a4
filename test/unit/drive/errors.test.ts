/** The error catalogue: what it promises to callers about every reason. */
import { expect } from "chai";
import { DriveError, hasReason, isErrorReason, REASONS, type ReasonSpec } from "../../../src/drive/errors.ts";

const rows: readonly (readonly [string, ReasonSpec])[] = Object.entries(REASONS);

describe("The error catalogue", () => {
  it("never calls an unknown outcome 'unavailable', because generic clients would retry it as new", () => {
    expect(
      rows.filter(([, spec]) => spec.outcome === "indefinite" && spec.code === "unavailable"),
    ).to.deep.equal([]);
  });

  it("tells what to do about every reason", () => {
    for (const [reason, spec] of rows) {
      expect(reason).to.match(/^[A-Z][A-Z0-9_]{2,62}$/);
      expect(spec.remedy).to.match(/^[A-Z].*\.$/);
      expect(spec.httpStatus).to.be.within(400, 599);
    }
  });

  it("asks to wait wherever the same request may succeed soon", () => {
    for (const [reason, spec] of rows) {
      if (spec.httpStatus === 503 || spec.httpStatus === 429)
        expect(spec.retryAfterSeconds, reason).to.be.greaterThan(0);
    }
  });
});

describe("DriveError", () => {
  it("carries its reason, its variables and its cause", () => {
    const cause = new Error("ENOSPC");
    const error = new DriveError("NO_SPACE", "The disk is full.", { free_bytes: "0" }, cause);

    expect(hasReason(error, "NO_SPACE")).to.equal(true);
    expect(hasReason(error, "INTERNAL")).to.equal(false);
    expect(error.spec.httpStatus).to.equal(507);
    expect(error.metadata).to.deep.equal({ free_bytes: "0" });
    expect(error.cause).to.equal(cause);
  });

  it("knows the names of reasons and nothing else", () => {
    expect([isErrorReason("NO_SPACE"), isErrorReason("toString"), isErrorReason("")]).to.deep.equal([
      true,
      false,
      false,
    ]);
  });
});
