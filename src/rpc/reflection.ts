/**
 * Server reflection, v1 and v1alpha, from the protobuf descriptors of the served services.
 *
 * Answers come from the descriptors that the code itself was generated from, with the files they import, so that a client
 * without our protos (buf curl, grpcurl) lists and calls everything.
 */
import {
  create,
  createRegistry,
  toBinary,
  type DescFile,
  type DescService,
  type MessageInitShape,
} from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import {
  ServerReflection as ServerReflectionV1,
  ServerReflectionResponseSchema,
  type ServerReflectionRequest,
} from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import {
  ServerReflection as ServerReflectionV1Alpha,
  ServerReflectionResponseSchema as ResponseV1AlphaSchema,
} from "../../gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { file_netdisk_v1_error } from "../../gen/netdisk/v1/error_pb.ts";
import { service, type ServedService } from "./server-adapter.ts";

const NOT_FOUND = 5;
const UNIMPLEMENTED = 12;

type Answer = Exclude<
  NonNullable<MessageInitShape<typeof ServerReflectionResponseSchema>["messageResponse"]>,
  { case?: undefined }
>;
type Question = ServerReflectionRequest["messageRequest"];

/** What reflection knows: files by name, symbols, and the names of services. */
class DescriptorIndex {
  readonly #files = new Map<string, DescFile>();
  readonly #registry;
  readonly #serviceNames: readonly string[];

  constructor(services: readonly DescService[]) {
    // No service imports it: error details travel in a trailer, as a type that clients look up by name.
    this.#addFile(file_netdisk_v1_error);
    for (const { file } of services) this.#addFile(file);
    this.#registry = createRegistry(...this.#files.values());
    this.#serviceNames = services.map(({ typeName }) => typeName).toSorted();
  }

  #addFile(file: DescFile): void {
    if (this.#files.has(file.proto.name)) return;
    this.#files.set(file.proto.name, file);
    for (const dependency of file.dependencies) this.#addFile(dependency);
  }

  answer(question: Question): Answer {
    switch (question.case) {
      case "listServices":
        return {
          case: "listServicesResponse",
          value: { service: this.#serviceNames.map((name) => ({ name })) },
        };
      case "fileByFilename":
        return this.#fileAnswer(this.#files.get(question.value), question.value);
      case "fileContainingSymbol":
        return this.#fileAnswer(this.#findFile(question.value), question.value);
      case "fileContainingExtension": {
        const { containingType, extensionNumber } = question.value;
        const message = this.#registry.getMessage(containingType);
        const extension = message && this.#registry.getExtensionFor(message, extensionNumber);
        return this.#fileAnswer(extension?.file, `${containingType} ${extensionNumber}`);
      }
      case "allExtensionNumbersOfType":
        return {
          case: "allExtensionNumbersResponse",
          value: { baseTypeName: question.value, extensionNumber: this.#extensionNumbers(question.value) },
        };
      case undefined:
        return {
          case: "errorResponse",
          value: { errorCode: UNIMPLEMENTED, errorMessage: "unknown kind of question" },
        };
    }
  }

  #extensionNumbers(typeName: string): number[] {
    const numbers: number[] = [];
    for (const type of this.#registry) {
      if (type.kind === "extension" && type.extendee.typeName === typeName) numbers.push(type.number);
    }
    return numbers;
  }

  /** The file of a symbol: a type, a service, or a member of one. */
  #findFile(symbol: string): DescFile | undefined {
    let name = symbol.replace(/^\./, "");
    while (name !== "") {
      const type = this.#registry.get(name);
      if (type !== undefined) return type.file;
      const dot = name.lastIndexOf(".");
      name = dot < 0 ? "" : name.slice(0, dot);
    }
    return undefined;
  }

  /** The file and everything it imports, so that one question is enough. */
  #fileAnswer(file: DescFile | undefined, asked: string): Answer {
    if (file === undefined) {
      return {
        case: "errorResponse",
        value: { errorCode: NOT_FOUND, errorMessage: `not found: ${asked}` },
      };
    }
    const closure = new Set<DescFile>([file]);
    for (const each of closure) for (const dependency of each.dependencies) closure.add(dependency);
    const bytes = [...closure].map((each) => toBinary(FileDescriptorProtoSchema, each.proto));
    return { case: "fileDescriptorResponse", value: { fileDescriptorProto: bytes } };
  }
}

/** Both reflection services over `services`, themselves included. */
export function reflectionServices(services: readonly DescService[]): readonly ServedService[] {
  const index = new DescriptorIndex([...services, ServerReflectionV1, ServerReflectionV1Alpha]);
  return [
    service(ServerReflectionV1, {
      async *serverReflectionInfo(requests) {
        for await (const request of requests) {
          const messageResponse = index.answer(request.messageRequest);
          yield create(ServerReflectionResponseSchema, { originalRequest: request, messageResponse });
        }
      },
    }),
    service(ServerReflectionV1Alpha, {
      async *serverReflectionInfo(requests) {
        for await (const request of requests) {
          // The two versions differ in their package alone.
          const messageResponse = index.answer(request.messageRequest as Question) as MessageInitShape<
            typeof ResponseV1AlphaSchema
          >["messageResponse"];
          yield create(ResponseV1AlphaSchema, {
            originalRequest: request,
            ...(messageResponse && { messageResponse }),
          });
        }
      },
    }),
  ];
}
