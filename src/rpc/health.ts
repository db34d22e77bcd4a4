/**
 * The standard gRPC health service (grpc.health.v1): Check, Watch and List over the states that the node sets.
 *
 * The empty name is the node as a whole; each served service has its own name. Does not find out by itself how the node is.
 */
import {
  Health,
  HealthCheckResponse_ServingStatus as ServingStatus,
} from "../../gen/grpc/health/v1/health_pb.ts";
import { DriveError } from "../drive/errors.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import { service, type ServedService } from "./server-adapter.ts";

/** Serving states by service name. */
export class HealthStates {
  readonly #states = new Map<string, ServingStatus>();
  #changed: Deferred<void> = deferred<void>();

  /** @param services full names of the services, beside "" for the node; all start as not serving */
  constructor(services: readonly string[]) {
    for (const name of ["", ...services]) this.#states.set(name, ServingStatus.NOT_SERVING);
  }

  /** Says of every service whether it serves. */
  setServing(serving: boolean): void {
    const status = serving ? ServingStatus.SERVING : ServingStatus.NOT_SERVING;
    for (const name of this.#states.keys()) this.#states.set(name, status);
    this.#changed.resolve();
    this.#changed = deferred<void>();
  }

  /** The health service over these states. */
  service(): ServedService {
    return service(Health, {
      check: (request) => ({ status: this.#get(request.service) }),
      list: () => ({
        statuses: Object.fromEntries([...this.#states].map(([name, status]) => [name, { status }])),
      }),
      watch: (request, call) => this.#watch(request.service, call.signal),
    });
  }

  #get(name: string): ServingStatus {
    const status = this.#states.get(name);
    if (status !== undefined) return status;
    throw new DriveError("PATH_NOT_FOUND", `There is no service ${JSON.stringify(name)}.`, { service: name });
  }

  async *#watch(name: string, signal: AbortSignal): AsyncIterable<{ status: ServingStatus }> {
    const aborted = deferred<void>();
    signal.addEventListener("abort", () => aborted.resolve(), { once: true });
    let last: ServingStatus | undefined;
    while (!signal.aborted) {
      const changed = this.#changed.promise;
      const status = this.#states.get(name) ?? ServingStatus.SERVICE_UNKNOWN;
      if (status !== last) yield { status };
      last = status;
      await Promise.race([changed, aborted.promise]);
    }
  }
}
