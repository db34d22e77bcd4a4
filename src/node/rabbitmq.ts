/** RabbitMQ as it is configured: what lies in files is read here, the broker itself is only asked later and may be down. */
import type { Config } from "../config/config.ts";
import type { Clock } from "../std/clock.ts";
import { RabbitMqLink } from "../tasks/rabbitmq-link.ts";
import { readSecret } from "./secret-file.ts";

/** The connection to RabbitMQ; undefined where none is configured. @throws DriveError CONFIGURATION_INVALID */
export async function rabbitmqLink(
  services: Config["services"],
  clock: Clock,
): Promise<RabbitMqLink | undefined> {
  const { rabbitmqUrl, rabbitmqPasswordFile, rabbitmqCaFile } = services;
  if (rabbitmqUrl === undefined) return undefined;
  return new RabbitMqLink({
    clock,
    url: rabbitmqUrl.includes("://") ? rabbitmqUrl : `amqp://${rabbitmqUrl}`,
    password: rabbitmqPasswordFile === undefined ? undefined : await readSecret(rabbitmqPasswordFile),
    certificateAuthority:
      rabbitmqCaFile === undefined ? undefined : Buffer.from(await readSecret(rabbitmqCaFile)),
  });
}
