/**
 * The process an engine lives in; its main thread is rank 0 of the compute team. Started and watched by `engine-supervisor.ts`, and ends with
 * the connection to it.
 */
import type { ModelText } from './engine-host.ts';
import type { EngineSetup } from './engine-setup.ts';
import {
  type Envelope,
  type IpcChannel,
  type ProcessMessage,
  processPort,
  sendEnvelope,
} from './process-port.ts';
import { serveEngine } from './serve-engine.ts';

/** Time for memory to be let go of after the connection has ended. */
const LEAVE_TIMEOUT_MS = 3000;

async function main(channel: IpcChannel): Promise<void> {
  // A terminal's Ctrl-C and a service manager's stop reach every process of a group: the server decides what follows.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
  channel.on('disconnect', () => {
    setTimeout(() => process.exit(0), LEAVE_TIMEOUT_MS).unref();
  });
  const setup = Promise.withResolvers<EngineSetup>();
  const text = Promise.withResolvers<ModelText>();
  channel.on('message', (message) => {
    const envelope = message as Envelope;
    if (!('host' in envelope)) return;
    const told = envelope.host as ProcessMessage;
    if (told.type === 'open') setup.resolve(told.setup);
    else text.resolve(told);
  });
  const port = processPort(channel);
  await serveEngine({
    setup: await setup.promise,
    text: text.promise,
    port,
    tell: (host) => sendEnvelope(channel, { host }),
  });
  port.close();
}

if (process.send !== undefined) {
  await main(process as IpcChannel);
  // Compute threads that hang must not keep a process that has nothing to do.
  setTimeout(() => process.exit(0), LEAVE_TIMEOUT_MS).unref();
}
