/** `hasten serve`: a model behind an OpenAI-compatible API. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { InvalidArgumentError, Option } from 'commander';
import type { Logger } from 'pino';
import { EngineSupervisor, type SupervisorEvent } from '../../app/engine-supervisor.ts';
import type { FoundModel } from '../../app/find-model.ts';
import { kvOffloadFolder } from '../../app/plan-cache-folder.ts';
import { parsePreload, preload } from '../../app/preload.ts';
import type { RunningModel } from '../../app/running-model.ts';
import { SPECULATIONS, type Speculation } from '../../engine/draft-source.ts';
import type { OffloadOptions } from '../../engine/engine-core.ts';
import { POOLINGS, type Pooling } from '../../engine/pooling.ts';
import { DEFAULT_PREFILL_PACER_OPTIONS } from '../../engine/prefill-pacer.ts';
import { PREFIX_CACHE_SCOPES, type PrefixCacheScope } from '../../engine/prefix-keeper.ts';
import { packageManifest } from '../../platform/package-files.ts';
import { parseApiKeyFile, parseApiKeys } from '../../server/api-keys.ts';
import { isLoopbackAddress } from '../../server/host-guard.ts';
import { createLogger, LOG_LEVELS, type LogLevel } from '../../server/log.ts';
import { HttpServer } from '../../server/server.ts';
import { bothObservers, openTracing, type Tracing, TracingError } from '../../server/tracing.ts';
import { CommandError, UsageError } from '../errors.ts';
import { oncePerPress } from '../interrupt.ts';
import { findModelWithProgress, startFoundModel } from '../model-command.ts';
import {
  addEngineOptions,
  collect,
  type EngineFlags,
  parseBytes,
  parseInteger,
  parseNumber,
  readTextFile,
} from '../options.ts';
import { note, printLine, styled, styledError } from '../output.ts';

interface ServeFlags extends EngineFlags {
  readonly host: string;
  readonly port: number;
  readonly servedModelName?: string[];
  readonly maxNumSeqs: number;
  readonly maxStepTime: number;
  readonly logLevel: LogLevel;
  readonly gracePeriod: number;
  readonly apiKey?: string[];
  readonly apiKeyFile?: string;
  readonly allowUnauthenticated: boolean;
  readonly openMetrics: boolean;
  readonly maxQueue: number;
  readonly maxConcurrencyPerKey?: number;
  readonly rateLimit?: number;
  readonly requestTimeout: number;
  readonly engineTimeout: number;
  readonly slowReaderTimeout: number;
  readonly corsOrigin?: string[];
  readonly sslCertfile?: string;
  readonly sslKeyfile?: string;
  readonly preload?: string;
  readonly pooling: Pooling;
  readonly otlpTracesEndpoint?: string;
  readonly speculation: Speculation;
  readonly draftModel?: string;
  readonly numSpeculativeTokens?: number;
  readonly kvOffloadMemory: number;
  readonly kvOffloadDisk: number;
  readonly kvOffloadFolder?: string;
  readonly prefixCacheScope: PrefixCacheScope;
  readonly slotSavePath?: string;
  readonly warmup: boolean;
}

/** Time for running steps of all sizes before the server is ready. */
const WARM_UP_MS = 2000;

export function define(command: Command): void {
  command
    .argument('[model]', 'a path, an alias or any form that pull takes; left out: smollm2')
    .option('--host <address>', 'address to listen on', '127.0.0.1')
    .option('--port <n>', 'port to listen on, 0 for any free one', parsePort, 8000)
    .option('--served-model-name <name...>', 'name, or names, that requests may ask for')
    .option('--max-num-seqs <n>', 'sequences in one step, at most', parseInteger(1), 16)
    .option(
      '--max-step-time <ms>',
      'bound of what prompts add between two tokens of a running answer',
      parseNumber(1, 10_000),
      DEFAULT_PREFILL_PACER_OPTIONS.maxStepMs,
    )
    .option(
      '--grace-period <seconds>',
      'for running requests at shutdown',
      parseNumber(0, 3600),
      10,
    )
    .option('--api-key <key>', 'who may ask: SECRET or NAME:SECRET; may be given again', collect)
    .option('--api-key-file <file>', 'a file of such keys, one a line')
    .option('--allow-unauthenticated', 'listen beyond this machine without a key', false)
    .option('--open-metrics', 'answer /metrics without a key', false)
    .option('--max-queue <n>', 'answers that may wait; beyond them 429', parseInteger(0), 1024)
    .option('--max-concurrency-per-key <n>', 'answers of one key at once', parseInteger(1))
    .option('--rate-limit <n>', 'requests of one key in a minute', parseInteger(1))
    .option('--request-timeout <seconds>', 'for one request; 0: none', parseNumber(0, 86400), 3600)
    .option(
      '--engine-timeout <seconds>',
      'without progress after which the engine is started again; 0: none',
      parseNumber(0, 86400),
      120,
    )
    .option(
      '--slow-reader-timeout <seconds>',
      'after which a client that reads nothing is cut off',
      parseNumber(0.1, 3600),
      30,
    )
    .option('--cors-origin <origin>', 'whose pages may ask, * for all; may be given again', collect)
    .option('--preload <file>', 'prompts to compute before the server is ready: a JSON list')
    .addOption(
      new Option('--pooling <how>', 'how /v1/embeddings makes one vector of all tokens')
        .choices(POOLINGS)
        .default('mean'),
    )
    .addOption(
      new Option('--speculation <how>', 'tokens found in the text itself, checked several at once')
        .choices(SPECULATIONS)
        .default('ngram'),
    )
    .option('--draft-model <model>', 'a smaller model of the same vocabulary to draft tokens')
    .option('--num-speculative-tokens <n>', 'tokens of one draft, at most', parseInteger(1))
    .option('--kv-offload-memory <size>', 'for prefixes that leave the KV cache', parseBytes, 0)
    .option('--kv-offload-disk <size>', 'for those that leave that memory', parseBytes, 0)
    .option('--kv-offload-folder <folder>', "where on disk; default: in the user's cache folder")
    .addOption(
      new Option('--prefix-cache-scope <who>', 'who shares prefixes: all, or each API key its own')
        .choices(PREFIX_CACHE_SCOPES)
        .default('all'),
    )
    .option('--slot-save-path <folder>', 'where /slots saves sessions; left out: nowhere')
    .option('--no-warmup', 'be ready without having run steps of all sizes')
    .option('--otlp-traces-endpoint <url>', 'where OpenTelemetry traces are sent, OTLP over HTTP')
    .option('--ssl-certfile <file>', 'certificate chain, PEM; serves HTTPS')
    .option('--ssl-keyfile <file>', 'its private key, PEM')
    .addOption(
      new Option('--log-level <level>', 'what to log').choices(LOG_LEVELS).default('info'),
    );
  addEngineOptions(command)
    .addHelpText(
      'after',
      `
Serves the APIs of OpenAI (/v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings,
/v1/models) and of Anthropic (/v1/messages), /tokenize, /detokenize, /slots to save and restore
sessions, /healthz, /readyz, /metrics for Prometheus, a chat page at / and a dashboard at /dashboard. HASTEN_API_KEY holds further keys, separated by commas.

Example:
  $ hasten serve smollm2 --port 8000
`,
    )
    .action(serve);
}

function parsePort(text: string): number {
  const port = parseInteger(0)(text);
  if (port > 65535) throw new InvalidArgumentError('Expected a port from 0 to 65535.');
  return port;
}

async function serve(spec: string | undefined, flags: ServeFlags): Promise<void> {
  if (flags.draftModel !== undefined && flags.speculation === 'off') {
    throw new UsageError('--draft-model and --speculation off contradict each other');
  }
  const logger = createLogger(flags.logLevel);
  const options = await serverOptions(flags);
  if (!isLoopbackAddress(flags.host) && options.apiKeys.length === 0) assertMayBeOpen(flags);
  if (flags.preload !== undefined && flags.prefixCacheScope === 'tenant') {
    throw new UsageError(
      '--preload computes prompts for everybody, and --prefix-cache-scope tenant lets nobody find what was not their own: leave out one of them',
    );
  }
  const preloads =
    flags.preload === undefined ? [] : parsePreload(await readTextFile(flags.preload));
  const tracing = await tracingOf(flags, logger);
  const server = new HttpServer({
    ...options,
    tracing,
    host: flags.host,
    port: flags.port,
    logger,
  });
  const shutdown = new AbortController();
  const onSignal = oncePerPress((signal: NodeJS.Signals): void => {
    if (shutdown.signal.aborted) process.exit(130);
    logger.info(`${signal}: shutting down, running requests have ${flags.gracePeriod} s`);
    shutdown.abort();
  });
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal).on('SIGHUP', onSignal);
  const onPhase = (phase: string): void => {
    server.served.setState({ kind: 'loading', phase });
  };
  let model: RunningModel | undefined;
  try {
    const url = await server.listen();
    logger.info(`loading ${spec ?? 'the default model'}`);
    const found = await findModelWithProgress(spec, {
      offline: flags.offline,
      signal: shutdown.signal,
      onPhase,
    });
    const draft =
      flags.draftModel === undefined
        ? undefined
        : await findModelWithProgress(flags.draftModel, {
            offline: flags.offline,
            signal: shutdown.signal,
            onPhase,
          });
    const supervisor = new EngineSupervisor({
      observer: tracing === null ? server.telemetry : bothObservers(server.telemetry, tracing),
      timeoutMs: flags.engineTimeout === 0 ? null : flags.engineTimeout * 1000,
      onEvent: (event) => {
        if (event.type === 'restarted') server.telemetry.metrics.restarted();
        server.served.setOutage(outageOf(event));
        logSupervisor(logger, event);
      },
    });
    model = await startFoundModel(found, flags, {
      host: supervisor,
      signal: shutdown.signal,
      maxSeqs: flags.maxNumSeqs,
      setup: {
        drafts: {
          speculation: flags.speculation,
          modelPath: draft?.path,
          maxTokens: flags.numSpeculativeTokens,
        },
        offload: offloadOf(flags),
        prefixCacheScope: flags.prefixCacheScope,
        maxStepMs: flags.maxStepTime,
        warmUpMs: flags.warmup ? WARM_UP_MS : undefined,
      },
      onPhase,
    });
    if (preloads.length > 0) {
      onPhase('computing the prompts of --preload');
      const figures = await preload(model, preloads, shutdown.signal);
      logger.info(figures, 'prompts computed ahead');
    }
    const names = namesOf(found, spec, flags);
    if (tracing !== null) tracing.modelName = names[0] ?? found.name;
    server.telemetry.metrics.setModel(names[0] ?? found.name, model.limits);
    server.served.setState({ kind: 'ready', model, names });
    logger.info({ enginePid: supervisor.pid }, 'the engine is ready');
    await announce(url, found, names[0] ?? found.name, spec);
    await untilShutdown(model, shutdown.signal);
  } catch (error) {
    if (!shutdown.signal.aborted) {
      server.served.setState({ kind: 'failed', reason: (error as Error).message });
      throw error;
    }
  } finally {
    await server.close(shutdown.signal.aborted ? flags.gracePeriod * 1000 : 0);
    await model?.[Symbol.asyncDispose]();
    await tracing?.[Symbol.asyncDispose]().catch((error: unknown) => {
      logger.warn({ err: error }, 'the last traces could not be sent');
    });
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal).off('SIGHUP', onSignal);
  }
}

function offloadOf(flags: ServeFlags): OffloadOptions | undefined {
  const { kvOffloadMemory: memoryBytes, kvOffloadDisk: maxBytes } = flags;
  if (memoryBytes === 0 && maxBytes === 0) return undefined;
  const folder = flags.kvOffloadFolder ?? kvOffloadFolder();
  return { memoryBytes, ...(maxBytes > 0 && { disk: { folder, maxBytes } }) };
}

/** Why requests wait, in words; null when they do not. */
function outageOf(event: SupervisorEvent): string | null {
  return event.type === 'restarted' ? null : 'the engine is being restarted';
}

function logSupervisor(logger: Logger, event: SupervisorEvent): void {
  const { type: kind, ...figures } = event;
  if (kind === 'died') logger.error(figures, 'the engine died and is started again');
  else if (kind === 'restarted') logger.info(figures, 'the engine runs again');
  else logger.error(figures, 'the engine could not be started again; there will be another try');
}

/** @throws {CommandError} if the engine cannot be kept alive */
async function untilShutdown(model: RunningModel, shutdown: AbortSignal): Promise<void> {
  const stopped = Promise.withResolvers<void>();
  shutdown.addEventListener('abort', () => stopped.resolve());
  if (shutdown.aborted) return;
  const failure = await Promise.race([stopped.promise, model.failure]);
  if (failure) throw new CommandError(`the engine stopped: ${failure.message}`, { cause: failure });
}

/** The names that requests may use, the first being what answers carry. */
function namesOf(found: FoundModel, spec: string | undefined, flags: ServeFlags): string[] {
  if (flags.servedModelName !== undefined) return flags.servedModelName;
  return [...new Set([found.name, ...(spec === undefined ? [] : [spec])])];
}

async function announce(
  url: string,
  found: FoundModel,
  name: string,
  spec: string | undefined,
): Promise<void> {
  if (found.fallbackReasons.length > 0) {
    note(
      styledError('yellow', 'The default model, smollm2, could not be had:') +
        found.fallbackReasons.map(({ source, reason }) => `\n  - ${source}: ${reason}`).join('') +
        `\nServed instead is "${found.name}", the tiny model that comes with hasten. It answers, but nothing sensible.` +
        '\nhasten pull smollm2 fetches the real one where there is a network; hasten serve MODEL serves another.',
    );
  }
  const why =
    found.fallbackReasons.length > 0
      ? 'the embedded model'
      : spec === undefined
        ? 'the default model'
        : found.source;
  const body = JSON.stringify({ model: name, messages: [{ role: 'user', content: 'Hello!' }] });
  const quoted = `'${body.replaceAll("'", "'\\''")}'`;
  await printLine(`${styled('bold', name)} (${why}) is served at ${styled('bold', url)}\n`);
  await printLine(
    `  curl ${url}/v1/chat/completions -H 'content-type: application/json' -d ${quoted}\n`,
  );
  await printLine(`Chat page: ${url}/   API base: ${url}/v1   Ctrl-C stops.`);
}

/**
 * By the option, or by the variables of OpenTelemetry, which may be there for other programs: then traces that cannot be had are no fault.
 * @throws {TracingError} if they were asked for by the option
 */
async function tracingOf(flags: ServeFlags, logger: Logger): Promise<Tracing | null> {
  const { otlpTracesEndpoint: endpoint = null } = flags;
  const { env } = process;
  const isInEnvironment =
    env.OTEL_SDK_DISABLED !== 'true' &&
    Boolean(env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT || env.OTEL_EXPORTER_OTLP_ENDPOINT);
  if (endpoint === null && !isInEnvironment) return null;
  try {
    return await openTracing({ endpoint, version: packageManifest().version });
  } catch (error) {
    if (endpoint !== null || !(error instanceof TracingError)) throw error;
    logger.warn(error.message);
    return null;
  }
}

/** @throws {UsageError} unless the user has said that this is wanted */
function assertMayBeOpen({ host, allowUnauthenticated }: ServeFlags): void {
  if (!allowUnauthenticated) {
    throw new UsageError(
      `--host ${host} lets every machine that reaches this one use the model. Ask for a key with --api-key, --api-key-file or HASTEN_API_KEY, or say --allow-unauthenticated if that is wanted`,
    );
  }
  note(
    styledError('yellow', 'warning:') +
      ` --host ${host} lets every machine that reaches this one use the model, and no key is asked for`,
  );
}

/** @throws {CommandError | ApiKeyError} if a file or a key is no good */
async function serverOptions(flags: ServeFlags) {
  const { sslCertfile, sslKeyfile, apiKeyFile } = flags;
  if ((sslCertfile === undefined) !== (sslKeyfile === undefined)) {
    throw new UsageError('--ssl-certfile and --ssl-keyfile belong together');
  }
  const fromEnvironment = (process.env.HASTEN_API_KEY ?? '').split(',').filter((key) => key);
  return {
    apiKeys: [
      ...parseApiKeys([...(flags.apiKey ?? []), ...fromEnvironment]),
      ...(apiKeyFile === undefined ? [] : parseApiKeyFile(await readTextFile(apiKeyFile))),
    ],
    hasOpenMetrics: flags.openMetrics,
    admission: {
      maxQueue: flags.maxQueue,
      maxConcurrencyPerKey: flags.maxConcurrencyPerKey ?? null,
      requestsPerMinutePerKey: flags.rateLimit ?? null,
    },
    requestTimeoutMs: flags.requestTimeout === 0 ? null : flags.requestTimeout * 1000,
    slowReaderMs: flags.slowReaderTimeout * 1000,
    corsOrigins: flags.corsOrigin ?? [],
    pooling: flags.pooling,
    slotSavePath: flags.slotSavePath === undefined ? undefined : resolve(flags.slotSavePath),
    tls:
      sslCertfile === undefined || sslKeyfile === undefined
        ? undefined
        : { cert: await readTextFile(sslCertfile), key: await readTextFile(sslKeyfile) },
  };
}
