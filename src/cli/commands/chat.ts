/** `hasten chat`: a conversation in the terminal. */
import { createInterface, type Interface } from 'node:readline';
import type { Command } from 'commander';
import type { EngineHost } from '../../app/engine-host.ts';
import type { RunningModel } from '../../app/running-model.ts';
import type { ChatTurn, GenerationResult } from '../../app/text-model.ts';
import { RequestTooLongError } from '../../engine/errors.ts';
import type { SamplingParamsInput } from '../../engine/sampling-params.ts';
import { HastenError } from '../../platform/errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { startModelWithProgress } from '../model-command.ts';
import {
  addEngineOptions,
  addSamplingOptions,
  type EngineFlags,
  parseInteger,
  type SamplingFlags,
  samplingFromFlags,
} from '../options.ts';
import { note, styledError, writeOut } from '../output.ts';
import type { ProgramServices } from '../program.ts';
import { describe } from './run.ts';

interface ChatFlags extends EngineFlags, SamplingFlags {
  readonly system?: string;
  readonly maxTokens?: number;
}

/** Where neither the user nor the model says: small models talk nonsense at 1. */
const CHAT_TEMPERATURE = 0.7;

const HELP = `  /clear          begin a new conversation
  /system TEXT    set the system message (without TEXT: take it away), and begin anew
  /stats          tokens and speed so far
  /exit           leave; so does Ctrl-D
A line that ends in \\ goes on in the next one. Ctrl-C stops the answer.`;

export function define(command: Command, { engineHost }: ProgramServices): void {
  command
    .argument('[model]', 'a path, an alias or any form that pull takes; left out: smollm2')
    .option('--system <text>', 'system message')
    .option('-n, --max-tokens <n>', 'most tokens of an answer', parseInteger(1));
  addEngineOptions(addSamplingOptions(command))
    .addHelpText(
      'after',
      `\nIn the chat:\n${HELP}\n\nSampling settings that are left out come from the model's generation_config.json, else temperature is ${CHAT_TEMPERATURE}.\n\nExample:\n  $ hasten chat smollm2\n`,
    )
    .action((spec: string | undefined, flags: ChatFlags) => chat(spec, flags, engineHost));
}

async function chat(
  spec: string | undefined,
  flags: ChatFlags,
  host: EngineHost | undefined,
): Promise<void> {
  using interrupts = new InterruptHandler();
  await using model = await startModelWithProgress(spec, flags, {
    signal: interrupts.signal,
    maxSeqs: 1,
    host,
  });
  const isTerminal = process.stdin.isTTY === true;
  const lines = createInterface({
    input: process.stdin,
    output: isTerminal ? process.stderr : undefined,
    prompt: styledError('bold', '> '),
  });
  if (isTerminal) note(`${model.name}; /help lists the commands.`);
  await new ChatSession(model, lines, interrupts, flags).run();
}

class ChatSession {
  readonly #model: RunningModel;
  readonly #lines: Interface;
  readonly #interrupts: InterruptHandler;
  readonly #flags: ChatFlags;
  #system: string | undefined;
  #turns: ChatTurn[] = [];
  #results: GenerationResult[] = [];
  #isAnswering = false;

  constructor(
    model: RunningModel,
    lines: Interface,
    interrupts: InterruptHandler,
    flags: ChatFlags,
  ) {
    this.#model = model;
    this.#lines = lines;
    this.#interrupts = interrupts;
    this.#flags = flags;
    this.#system = flags.system;
  }

  /** Until the input ends or the user leaves. */
  async run(): Promise<void> {
    // In a terminal Ctrl-C is a key, not a signal.
    this.#lines.on('SIGINT', () => {
      if (this.#isAnswering) this.#interrupts.interrupt();
      else this.#lines.close();
    });
    const { end } = this.#interrupts;
    end.addEventListener('abort', () => this.#lines.close());
    let isOpen = true;
    this.#lines.once('close', () => {
      isOpen = false;
    });
    let pending = '';
    this.#lines.prompt();
    for await (const line of this.#lines) {
      if (line.endsWith('\\')) {
        pending += `${line.slice(0, -1)}\n`;
        continue;
      }
      const message = (pending + line).trim();
      pending = '';
      if (message === '/exit' || message === '/quit') break;
      if (message.startsWith('/')) this.#command(message);
      else if (message !== '') await this.#answer(message);
      end.throwIfAborted();
      if (isOpen) this.#lines.prompt(); // Lines that were read before the input ended still come.
    }
    this.#lines.close();
    end.throwIfAborted();
  }

  #command(message: string): void {
    const [name = '', ...rest] = message.split(/\s/);
    switch (name) {
      case '/help':
        note(HELP);
        break;
      case '/clear':
        this.#turns = [];
        note('a new conversation');
        break;
      case '/system':
        this.#system = rest.join(' ').trim() || undefined;
        this.#turns = [];
        note(this.#system === undefined ? 'no system message' : 'system message set');
        break;
      case '/stats':
        note(this.#stats());
        break;
      default:
        note(`${name}: no such command\n${HELP}`);
    }
  }

  #sampling(): SamplingParamsInput {
    const { temperature = this.#model.samplingDefaults.temperature ?? CHAT_TEMPERATURE } =
      this.#flags;
    return {
      ...samplingFromFlags(this.#flags),
      temperature,
      maxTokens: this.#flags.maxTokens ?? null,
    };
  }

  #stats(): string {
    const last = this.#results.at(-1);
    if (last === undefined) return 'no answers yet';
    const outputTokens = this.#results.reduce((sum, { timings }) => sum + timings.outputTokens, 0);
    return [
      `answers          ${this.#results.length}, ${outputTokens} tokens`,
      `last answer      ${describe(last)}`,
      `last prompt      ${last.timings.promptTokens} tokens (${last.cachedTokens} cached), ${Math.round(last.timings.promptMs)} ms`,
      `longest sequence ${this.#model.maxModelLen} tokens`,
    ].join('\n');
  }

  async #answer(message: string): Promise<void> {
    const signal = this.#interrupts.rearm();
    const system = this.#system === undefined ? [] : [{ role: 'system', content: this.#system }];
    const turns = [...this.#turns, { role: 'user', content: message }];
    this.#isAnswering = true;
    try {
      const generation = this.#model.generate({
        tokenIds: this.#model.encodeChat([...system, ...turns]),
        sampling: this.#sampling(),
        signal,
      });
      let text = '';
      for await (const part of generation) {
        text += part.text;
        await writeOut(part.text);
      }
      await writeOut(text.endsWith('\n') ? '' : '\n');
      const result = await generation.result;
      this.#results.push(result);
      this.#turns = [...turns, { role: 'assistant', content: text }];
      const stopped = result.finishReason === 'abort' ? 'stopped; ' : '';
      if (process.stderr.isTTY) note(styledError('dim', stopped + describe(result)));
    } catch (error) {
      if (!(error instanceof HastenError)) throw error;
      const wayOut =
        error instanceof RequestTooLongError ? ' (/clear begins a new conversation)' : '';
      note(`${styledError('red', 'error:')} ${error.message}${wayOut}`);
    } finally {
      this.#isAnswering = false;
    }
  }
}
