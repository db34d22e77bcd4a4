// Addresses are bounded: tables and records hold 253 characters of a host, brackets and a port.
import { expect } from "chai";
import { findAddress, formatAddress } from "../../../src/config/address.ts";

const HOST_LENGTH_MAX = 253;

describe("findAddress()", () => {
  it("takes an IPv6 host of 253 characters with its interface, and not one more", () => {
    const host = (length: number): string => "fe80::1%".padEnd(length, "e");
    const longest = `[${host(HOST_LENGTH_MAX)}]:65535`;
    expect(findAddress(longest)).to.deep.equal({ host: host(HOST_LENGTH_MAX), port: 65_535 });
    expect(formatAddress({ host: host(HOST_LENGTH_MAX), port: 65_535 })).to.have.length(261);
    expect(findAddress(`[${host(HOST_LENGTH_MAX + 1)}]:65535`)).to.equal(undefined);
  });

  it("takes a host name of 253 characters, and not one more", () => {
    const host = (length: number): string => `${"abcdefg.".repeat(31)}${"z".repeat(length - 248)}`;
    expect(findAddress(`${host(HOST_LENGTH_MAX)}:1`)?.host).to.have.length(HOST_LENGTH_MAX);
    expect(findAddress(`${host(HOST_LENGTH_MAX + 1)}:1`)).to.equal(undefined);
  });
});
