/**
 * Certificates for tests of TLS: an authority of the test's own, and what it issues, made with openssl in a folder of the
 * caller's. Keys are P-256 and everything is good for two days.
 */
import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { needTool } from "./services/programs.ts";

const run = promisify(execFile);

const NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
const LIFETIME = ["-days", "2", "-sha256"];

/** Paths of a certificate and its private key, both PEM. */
export interface Certificate {
  readonly certificatePath: string;
  readonly keyPath: string;
}

/** What a certificate is to be good for. */
export interface CertificateSubject {
  /** Its common name, and the name of its files; one word. */
  readonly name: string;
  /** Host names and addresses that it is valid for; none for a client's. */
  readonly hosts: readonly string[];
  readonly addresses?: readonly string[];
}

/** An authority that issues certificates. */
export class CertificateAuthority implements Certificate {
  readonly certificatePath: string;
  readonly keyPath: string;
  readonly #directory: string;

  private constructor(directory: string, name: string) {
    this.#directory = directory;
    this.certificatePath = join(directory, `${name}.crt`);
    this.keyPath = join(directory, `${name}.key`);
  }

  /** Makes an authority with its files in `directory`. @throws when there is no openssl and it cannot be installed */
  static async make(directory: string, name = "authority"): Promise<CertificateAuthority> {
    await needTool("openssl", ["openssl"]);
    const authority = new CertificateAuthority(directory, name);
    await run("openssl", [
      ...["req", "-x509", ...NEW_KEY, ...LIFETIME, "-subj", `/CN=${name}`],
      ...["-keyout", authority.keyPath, "-out", authority.certificatePath],
    ]);
    return authority;
  }

  /** Issues a certificate, for a server or a client. */
  async issue(subject: CertificateSubject): Promise<Certificate> {
    const file = (suffix: string): string => join(this.#directory, `${subject.name}.${suffix}`);
    const names = [
      ...subject.hosts.map((host) => `DNS:${host}`),
      ...(subject.addresses ?? []).map((address) => `IP:${address}`),
    ];
    const usage = "extendedKeyUsage=serverAuth,clientAuth";
    writeFileSync(
      file("ext"),
      names.length === 0 ? `${usage}\n` : `${usage}\nsubjectAltName=${names.join(",")}\n`,
    );
    await run("openssl", [
      ...["req", "-new", ...NEW_KEY, "-subj", `/CN=${subject.name}`],
      ...["-keyout", file("key"), "-out", file("csr")],
    ]);
    await run("openssl", [
      ...["x509", "-req", ...LIFETIME, "-in", file("csr"), "-extfile", file("ext")],
      ...["-CA", this.certificatePath, "-CAkey", this.keyPath, "-CAcreateserial", "-out", file("crt")],
    ]);
    return { certificatePath: file("crt"), keyPath: file("key") };
  }
}
