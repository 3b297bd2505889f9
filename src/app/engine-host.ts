/**
 * Starts an engine on a thread of its own and watches over it. Knows nothing of what the engine does: that is the protocol's business
 * (`engine/protocol.ts`). `engine-supervisor.ts` does the same with a process of its own.
 *
 * A command starts it before it does anything else, so nothing heavy may be imported here.
 */
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import type { EngineApi } from '../engine/engine.ts';
import type { EngineClient } from '../engine/engine-client.ts';
import type { SamplingParams } from '../engine/sampling-params.ts';
import { HastenError, InternalError } from '../platform/errors.ts';
import type { RunnerProgress } from '../runtime/runner-options.ts';
import type { EngineSetup, ProgressCallback } from './engine-setup.ts';
import type { TokenText } from './token-text.ts';

/** What the engine's thread is told: `open`, then `text` as soon as the tokenizer is read. */
export type ThreadMessage =
  | {
      readonly type: 'open';
      readonly setup: EngineSetup;
      /** The engine's end of the connection. */
      readonly port: MessagePort;
    }
  | ({ readonly type: 'text' } & ModelText);

export interface ModelText {
  /** null: the model's tokens have no text. */
  readonly tokenText: TokenText | null;
  /** Every id that ends a text. */
  readonly eosTokenIds: readonly number[];
}

/** What the engine's thread tells while it starts. */
export type HostMessage =
  | { readonly type: 'progress'; readonly progress: RunnerProgress }
  | { readonly type: 'failed'; readonly code: string; readonly message: string };

export interface ConnectOptions extends ModelText {
  /** What sampling parameters that a request leaves out mean. */
  readonly defaults: SamplingParams;
}

/** The engine could not start. `code` is that of the fault itself, such as `invalid_model`. */
export class EngineStartError extends HastenError {}

/** The engine's thread ended unasked. */
export class EngineDiedError extends HastenError {
  constructor(reason: string, options?: ErrorOptions) {
    super('engine_died', `the engine stopped: ${reason}`, options);
  }
}

/** Starts an engine and answers for it, wherever it lives. */
export interface EngineKeeper extends AsyncDisposable {
  /** Lets the engine load a model; `connect` waits for it. */
  open(setup: EngineSetup, options?: EngineHostOptions): void;
  /**
   * Gives the engine what it still lacks, and waits until it takes requests.
   *
   * @throws {EngineStartError} if the model cannot be loaded, with the code of the reason
   * @throws the reason of the signal
   */
  connect(options: ConnectOptions): Promise<EngineApi>;
  /** Resolves, with the reason, if the engine is gone for good; never settles otherwise. */
  readonly failure: Promise<Error>;
}

export interface EngineHostOptions {
  readonly onProgress?: ProgressCallback | undefined;
  /** Gives up starting. */
  readonly signal?: AbortSignal | undefined;
}

/** Time that a closed engine has to let go of its memory before its thread is ended from outside. */
const CLOSE_TIMEOUT_MS = 5000;

export class EngineHost implements EngineKeeper {
  readonly #worker: Worker;
  #port: MessagePort | undefined;
  #options: EngineHostOptions = {};
  readonly #exited = Promise.withResolvers<void>();
  readonly #failure = Promise.withResolvers<Error>();
  #client: EngineClient | undefined;
  /** Why the thread ended, as far as it said. */
  #reason: Error | undefined;
  #isClosing = false;

  /** Starts the thread. Until `open` it does not keep the process alive. */
  constructor() {
    this.#worker = new Worker(new URL('./engine-worker.ts', import.meta.url), {
      name: 'hasten-engine',
      execArgv: ['--disable-warning=ExperimentalWarning'], // node:ffi
    });
    this.#worker.on('message', (message: HostMessage) => {
      if (message.type === 'progress') this.#options.onProgress?.(message.progress);
      else this.#reason = new EngineStartError(message.code, message.message);
    });
    this.#worker.on('error', (error) => {
      this.#reason ??= new EngineDiedError(String((error as Error)?.stack ?? error), {
        cause: error,
      });
    });
    this.#worker.on('exit', (code) => this.#ended(code));
    this.#worker.unref(); // After the listeners, which would undo it.
  }

  open(setup: EngineSetup, options: EngineHostOptions = {}): void {
    this.#options = options;
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.#worker.ref();
    this.#tell({ type: 'open', setup, port: port2 }, [port2]);
  }

  get failure(): Promise<Error> {
    return this.#failure.promise;
  }

  async connect({ defaults, ...text }: ConnectOptions): Promise<EngineApi> {
    const port = this.#port;
    if (port === undefined) throw new InternalError('connect comes after open');
    const { signal } = this.#options;
    const giveUp = (): void => void this.kill();
    signal?.addEventListener('abort', giveUp, { once: true });
    try {
      signal?.throwIfAborted();
      this.#tell({ type: 'text', ...text });
      const [{ EngineClient: Client }, { threadPort }] = await Promise.all([
        import('../engine/engine-client.ts'),
        import('../engine/protocol.ts'),
      ]);
      this.#client = await Client.connect(threadPort(port), { defaults });
      return this.#client;
    } catch (error) {
      await this.kill();
      signal?.throwIfAborted();
      throw this.#reason ?? error;
    } finally {
      signal?.removeEventListener('abort', giveUp);
    }
  }

  /** Ends the thread at once, as a crash would. */
  async kill(): Promise<void> {
    await this.#worker.terminate();
    await this.#exited.promise;
  }

  /** Ends what runs, then the thread. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true;
    if (this.#client === undefined) await this.kill();
    await this.#client?.close();
    const timer = setTimeout(() => void this.#worker.terminate(), CLOSE_TIMEOUT_MS);
    await this.#exited.promise;
    clearTimeout(timer);
  }

  #tell(message: ThreadMessage, transferred: MessagePort[] = []): void {
    this.#worker.postMessage(message, transferred);
  }

  #ended(code: number): void {
    this.#port?.close();
    this.#exited.resolve();
    if (this.#isClosing || this.#client === undefined) return;
    // Open requests end with an error, whichever of this event and the port's `close` comes first; later ones are refused.
    this.#client.abandon();
    this.#failure.resolve(
      this.#reason ?? new EngineDiedError(`its thread ended with code ${code}`),
    );
  }
}
