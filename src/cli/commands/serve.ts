/** `hasten serve`: a model behind an OpenAI-compatible API. */
import type { Command } from 'commander';
import { InvalidArgumentError, Option } from 'commander';
import type { Logger } from 'pino';
import { EngineSupervisor, type SupervisorEvent } from '../../app/engine-supervisor.ts';
import type { FoundModel } from '../../app/find-model.ts';
import type { RunningModel } from '../../app/running-model.ts';
import { isLoopbackAddress } from '../../server/host-guard.ts';
import { createLogger, LOG_LEVELS, type LogLevel } from '../../server/log.ts';
import { HttpServer } from '../../server/server.ts';
import { CommandError } from '../errors.ts';
import { findModelWithProgress, startFoundModel } from '../model-command.ts';
import { addEngineOptions, type EngineFlags, parseInteger, parseNumber } from '../options.ts';
import { note, printLine, styled, styledError } from '../output.ts';

interface ServeFlags extends EngineFlags {
  readonly host: string;
  readonly port: number;
  readonly servedModelName?: string[];
  readonly maxNumSeqs: number;
  readonly logLevel: LogLevel;
  readonly gracePeriod: number;
}

export function define(command: Command): void {
  command
    .argument('[model]', 'a path, an alias or any form that pull takes; left out: smollm2')
    .option('--host <address>', 'address to listen on', '127.0.0.1')
    .option('--port <n>', 'port to listen on, 0 for any free one', parsePort, 8000)
    .option('--served-model-name <name...>', 'name, or names, that requests may ask for')
    .option('--max-num-seqs <n>', 'sequences in one step, at most', parseInteger(1), 16)
    .option(
      '--grace-period <seconds>',
      'for running requests at shutdown',
      parseNumber(0, 3600),
      10,
    )
    .addOption(
      new Option('--log-level <level>', 'what to log').choices(LOG_LEVELS).default('info'),
    );
  addEngineOptions(command)
    .addHelpText(
      'after',
      `
Serves POST /v1/chat/completions and /v1/completions, GET /v1/models, /healthz, /readyz, and a chat
page at /.

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
  const logger = createLogger(flags.logLevel);
  const server = new HttpServer({ host: flags.host, port: flags.port, logger });
  const shutdown = new AbortController();
  const onSignal = (signal: NodeJS.Signals): void => {
    if (shutdown.signal.aborted) process.exit(130);
    logger.info(`${signal}: shutting down, running requests have ${flags.gracePeriod} s`);
    shutdown.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  const onPhase = (phase: string): void => {
    server.served.setState({ kind: 'loading', phase });
  };
  let model: RunningModel | undefined;
  try {
    const url = await server.listen();
    if (!isLoopbackAddress(flags.host)) warnOfOpenHost(flags.host);
    logger.info(`loading ${spec ?? 'the default model'}`);
    const found = await findModelWithProgress(spec, {
      offline: flags.offline,
      signal: shutdown.signal,
      onPhase,
    });
    const supervisor = new EngineSupervisor({
      onEvent: (event) => {
        server.served.setOutage(outageOf(event));
        logSupervisor(logger, event);
      },
    });
    model = await startFoundModel(found, flags, {
      host: supervisor,
      signal: shutdown.signal,
      maxSeqs: flags.maxNumSeqs,
      onPhase,
    });
    const names = namesOf(found, spec, flags);
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
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
  }
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

function warnOfOpenHost(host: string): void {
  note(
    styledError('yellow', 'warning:') +
      ` --host ${host} lets every machine that reaches this one use the model; there is no password yet`,
  );
}
