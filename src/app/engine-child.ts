/** One engine in one process, from its start to its death. Knows nothing of what comes after. */
import { type ChildProcess, fork } from 'node:child_process';
import type { EnginePort } from '../engine/protocol.ts';
import {
  EngineDiedError,
  EngineStartError,
  type HostMessage,
  type ModelText,
} from './engine-host.ts';
import type { EngineSetup, ProgressCallback } from './engine-setup.ts';
import { type Envelope, type IpcChannel, processPort, sendEnvelope } from './process-port.ts';

/** A terminal's Ctrl-C ends an engine that has only begun to start. It is on its way to this process, too, which shall hear it first. */
const SIGNAL_DELAY_MS = 100;

export class EngineChild {
  readonly port: EnginePort;
  /** Resolves with the reason when the process has ended, asked or unasked; never rejects. */
  readonly ended: Promise<Error>;
  readonly #child: ChildProcess;
  #isEnded = false;
  #killReason: string | undefined;

  /** Starts the process and lets it load the model. */
  constructor(setup: EngineSetup, onProgress: ProgressCallback | undefined) {
    const { HASTEN_API_KEY: _, ...env } = process.env;
    this.#child = fork(new URL('./engine-process.ts', import.meta.url), {
      serialization: 'advanced', // typed arrays
      execArgv: ['--disable-warning=ExperimentalWarning'], // node:ffi
      env,
      // Its standard output would mix with the server's; what it says is for the log.
      stdio: ['ignore', 2, 2, 'ipc'],
    });
    const channel = this.#child as IpcChannel;
    this.port = processPort(channel);
    let reason: Error | undefined;
    channel.on('message', (message) => {
      const envelope = message as Envelope;
      if (!('host' in envelope)) return;
      const told = envelope.host as HostMessage;
      if (told.type === 'progress') onProgress?.(told.progress);
      else reason = new EngineStartError(told.code, told.message);
    });
    const ended = Promise.withResolvers<Error>();
    this.ended = ended.promise;
    const end = (how: string, cause?: Error): void => {
      this.#isEnded = true;
      ended.resolve(reason ?? new EngineDiedError(this.#killReason ?? how, { cause }));
    };
    this.#child.on('error', (error) => end(`its process failed: ${error.message}`, error));
    // `close` comes after the channel has been read to its end.
    this.#child.on('close', (code, signal) => {
      const how =
        signal === null
          ? `its process ended with code ${code}`
          : `its process was ended by ${signal}`;
      if (signal === 'SIGINT' || signal === 'SIGHUP') setTimeout(() => end(how), SIGNAL_DELAY_MS);
      else end(how);
    });
    sendEnvelope(channel, { host: { type: 'open', setup } });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Gives the engine what it needs of the tokenizer. */
  tellText(text: ModelText): void {
    sendEnvelope(this.#child as IpcChannel, { host: { type: 'text', ...text } });
  }

  /** @param reason for whoever waits for its end */
  async kill(reason?: string): Promise<void> {
    this.#killReason = reason;
    if (!this.#isEnded) this.#child.kill('SIGKILL');
    await this.ended;
  }
}
