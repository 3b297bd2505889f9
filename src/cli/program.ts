/**
 * The program: knows which commands there are, loads only the one that was asked for, and maps errors to exit codes.
 * Knows nothing of what a command does.
 */
import { Command, CommanderError, Help, type Option } from 'commander';
import type { EngineHost } from '../app/engine-host.ts';
import { HastenError } from '../platform/errors.ts';
import { packageManifest } from '../platform/package-files.ts';
import { InterruptedError, UsageError } from './errors.ts';
import { note, styledError } from './output.ts';
import { inOurWords } from './spellings.ts';

/** A command's module: adds arguments, options, examples and the action to its commander object. */
export interface CommandModule {
  define(command: Command, services: ProgramServices): void;
}

export interface ProgramServices {
  /** A thread for an engine, started early; for `run` and `chat`. */
  readonly engineHost?: EngineHost | undefined;
}

interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  load(): Promise<CommandModule>;
  /** Commands below this one: `hasten bench serve`. */
  readonly subcommands?: readonly CommandEntry[];
}

/** In the order of the help page. The summaries stand here so that `hasten --help` loads no command. */
const COMMANDS: readonly CommandEntry[] = [
  { name: 'run', summary: 'generate text from a prompt', load: () => import('./commands/run.ts') },
  {
    name: 'chat',
    summary: 'talk with a model in the terminal',
    load: () => import('./commands/chat.ts'),
  },
  {
    name: 'serve',
    summary: 'serve a model over an OpenAI-compatible API',
    load: () => import('./commands/serve.ts'),
  },
  {
    name: 'pull',
    summary: 'download a model into the cache',
    load: () => import('./commands/pull.ts'),
  },
  { name: 'list', summary: 'list the cached models', load: () => import('./commands/list.ts') },
  {
    name: 'show',
    summary: 'show what a model is made of',
    load: () => import('./commands/show.ts'),
  },
  { name: 'rm', summary: 'remove a model from the cache', load: () => import('./commands/rm.ts') },
  {
    name: 'bench',
    summary: 'measure prefill and decode speed',
    load: () => import('./commands/bench.ts'),
    subcommands: [
      {
        name: 'serve',
        summary: 'measure a server under load',
        load: () => import('./commands/bench-serve.ts'),
      },
    ],
  },
  {
    name: 'logits',
    summary: 'print the logits of given token ids',
    load: () => import('./commands/logits.ts'),
  },
  {
    name: 'perplexity',
    summary: 'score a text file',
    load: () => import('./commands/perplexity.ts'),
  },
  {
    name: 'embed',
    summary: 'turn texts into vectors',
    load: () => import('./commands/embed.ts'),
  },
  {
    name: 'tokenize',
    summary: 'turn text into token ids',
    load: () => import('./commands/tokenize.ts'),
  },
  {
    name: 'quantize',
    summary: 'make a smaller model from a model',
    load: () => import('./commands/quantize.ts'),
  },
  {
    name: 'imatrix',
    summary: "measure the inputs of a model's weights, for quantize --imatrix",
    load: () => import('./commands/imatrix.ts'),
  },
  {
    name: 'evaluate',
    summary: 'measure what a smaller model costs in quality',
    load: () => import('./commands/evaluate.ts'),
  },
  {
    name: 'explain',
    summary: 'show how a model is compiled',
    load: () => import('./commands/explain.ts'),
  },
  { name: 'doctor', summary: 'check this machine', load: () => import('./commands/doctor.ts') },
];

export const EXIT_DONE = 0;
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;

/**
 * Runs one command line.
 * @param args what follows the program's name
 * @returns the exit code
 */
export async function runProgram(
  args: readonly string[],
  services: ProgramServices = {},
): Promise<number> {
  try {
    const { program, command, numWords } = await buildProgram(args, services);
    const words = args.slice(0, numWords);
    const rest = args.slice(numWords);
    await program.parseAsync([...words, ...(command ? inOurWords(rest, command) : rest)], {
      from: 'user',
    });
    return Number(process.exitCode ?? EXIT_DONE);
  } catch (error) {
    return report(error);
  }
}

interface BuiltProgram {
  readonly program: Command;
  /** The command that was asked for, named by the first so many arguments. */
  readonly command: Command | undefined;
  readonly numWords: number;
}

async function buildProgram(
  args: readonly string[],
  services: ProgramServices,
): Promise<BuiltProgram> {
  const program = new Command('hasten')
    .description('LLM inference, sooner.')
    .version(packageManifest().version, '-V, --version')
    .addHelpText('after', '\nExample:\n  $ hasten chat smollm2\n')
    .configureHelp({ optionDescription: withoutNothing })
    .configureOutput({ outputError: (text) => process.stderr.write(text) })
    .exitOverride();
  const words = args.filter((arg) => !arg.startsWith('-'));
  const wanted = words[0] === 'help' ? words.slice(1) : words;
  const path = await addCommands(program, COMMANDS, wanted, services);
  if (args.length === 0) program.help({ error: true });
  const isAtTheStart = path.every((command, i) => command.name() === args[i]);
  return {
    program,
    command: isAtTheStart ? path.at(-1) : undefined,
    numWords: isAtTheStart ? path.length : 0,
  };
}

/** What an option does, without a default that says that it is not given. */
function withoutNothing(option: Option): string {
  return new Help().optionDescription(option).replace(/ \(default: (?:false|\[\]|\{\})\)$/, '');
}

/**
 * Adds all of them by name and summary; loads the one that `wanted` begins with, or the one below it.
 * @returns the commands that `wanted` names, each below the one before it
 */
async function addCommands(
  parent: Command,
  entries: readonly CommandEntry[],
  wanted: readonly string[],
  services: ProgramServices,
): Promise<Command[]> {
  const [first, ...rest] = wanted;
  const path: Command[] = [];
  for (const entry of entries) {
    const command = parent.command(entry.name).description(entry.summary).exitOverride();
    if (entry.name !== first) continue;
    const below = entry.subcommands ?? [];
    if (!below.some(({ name }) => name === rest[0])) (await entry.load()).define(command, services);
    command.showHelpAfterError(`(${commandLine(command)} --help shows what there is)`);
    path.push(command, ...(await addCommands(command, below, rest, services)));
  }
  return path;
}

/** "hasten bench serve" */
function commandLine(command: Command): string {
  return command.parent ? `${commandLine(command.parent)} ${command.name()}` : command.name();
}

function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT_DONE : EXIT_USAGE;
  if (error instanceof InterruptedError) return error.exitCode;
  const message = error instanceof HastenError ? error.message : unexpected(error);
  note(`${styledError('red', 'error:')} ${message}`);
  if (error instanceof HastenError && process.env.HASTEN_DEBUG) note(String(error.stack));
  return error instanceof UsageError ? EXIT_USAGE : EXIT_FAILED;
}

/** Not one of ours: system errors speak for themselves, anything else is a bug whose stack is wanted. */
function unexpected(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if ('syscall' in error) return error.message;
  return `${error.stack ?? error.message}\nThis is a bug in hasten.`;
}
