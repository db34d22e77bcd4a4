/** Expects an operation to fail with a reason of the error catalogue. */
import { expect } from "chai";
import { DriveError, type ErrorReason } from "../../src/drive/errors.ts";

/** Runs `work` and expects a DriveError with `reason`; returns it, for a look at its metadata. */
export async function expectReason(reason: ErrorReason, work: () => unknown): Promise<DriveError> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof DriveError)) throw error;
    expect(error.reason, error.message).to.equal(reason);
    return error;
  }
  throw new Error(`expected ${reason}, but nothing failed`);
}
