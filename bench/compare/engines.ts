/**
 * The engines that are compared, each behind the same question: tokens per second of pp and tg on one model with so many threads, in a fresh
 * process. Knows how each is started and read, not what is done with the answers.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { lastJson, runChild } from '../lib/child.ts';
import { REPOSITORY } from '../lib/paths.ts';
import { median } from '../lib/statistics.ts';
import { pinnedVersion } from '../peers/install.ts';
import type { LlamaBenchAnswer, LlamaBenchRequest } from '../peers/llama-bench.ts';
import {
  type OpenVinoAttention,
  type OpenVinoBench,
  openVinoVersion,
  runOpenVino,
} from '../peers/openvino.ts';

export interface BenchJob {
  readonly modelPath: string;
  readonly vocabSize: number;
  readonly threads: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  readonly repetitions: number;
}

/** Tokens per second by test, such as `pp512`: median (hasten: mean) of the repetitions. */
export type BenchRates = Readonly<Record<string, number>>;

export interface Engine {
  /** Engines of one name are settings of the same thing; the best one stands for it. */
  readonly name: string;
  readonly setting: string;
  /** Instruction set it is held to; undefined for the best of the machine. */
  readonly isa: string | undefined;
  readonly version: string;
  run(job: BenchJob): Promise<BenchRates>;
}

const NODE_FLAGS = ['--disable-warning=ExperimentalWarning'];

/** @param extra further flags of `hasten bench` */
export function hastenEngine(isa?: string, extra: readonly string[] = []): Engine {
  return {
    name: 'hasten',
    setting: extra.join(' '),
    isa,
    version: hastenVersion(),
    async run(job) {
      const args = [
        ...[join(REPOSITORY, 'bin', 'hasten.js'), 'bench', job.modelPath, '--offline', '--json'],
        ...['-p', `${job.promptTokens}`, '-n', `${job.generatedTokens}`],
        ...['-t', `${job.threads}`, '-r', `${job.repetitions}`],
        ...(isa === undefined ? [] : ['--target', isa]),
        ...extra,
      ];
      const answer = lastJson(await runChild(process.execPath, args)) as {
        rows: { test: string; threads: number; tokensPerSecond: number }[];
      };
      return Object.fromEntries(answer.rows.map((row) => [row.test, row.tokensPerSecond]));
    },
  };
}

export function hastenVersion(): string {
  const git = (...args: string[]): string =>
    execFileSync('git', args, { cwd: REPOSITORY, encoding: 'utf8' }).trim();
  try {
    const isDirty = git('status', '--porcelain', '--untracked-files=no', 'src') !== '';
    return `${git('rev-parse', '--short', 'HEAD')}${isDirty ? ' with changes' : ''}`;
  } catch {
    return 'outside git';
  }
}

/** llama.cpp as npm carries it. @param folder of its shared objects */
export function npmLlamaEngine(folder: string, flashAttention: boolean, isa?: string): Engine {
  const script = fileURLToPath(new URL('../peers/llama-bench.ts', import.meta.url));
  return {
    name: 'llama.cpp npm',
    setting: flashAttention ? 'fa on' : 'fa off',
    isa,
    version: `node-llama-cpp ${pinnedVersion()} (llama.cpp v0.5.0), CPU`,
    async run(job) {
      const request: LlamaBenchRequest = {
        ...{ folder, flashAttention, model: job.modelPath, vocabSize: job.vocabSize },
        ...{ threads: job.threads, repetitions: job.repetitions, variant: isa },
        ...{ promptTokens: job.promptTokens, generatedTokens: job.generatedTokens },
      };
      const args = [...NODE_FLAGS, script, JSON.stringify(request)];
      const answer = lastJson(await runChild(process.execPath, args)) as LlamaBenchAnswer;
      return Object.fromEntries(
        Object.entries(answer.tokensPerSecond).map(([test, rates]) => [test, median(rates)]),
      );
    },
  };
}

/** A llama-bench that was built elsewhere. @param program its path */
export function llamaBenchEngine(program: string, flashAttention: boolean): Engine {
  return {
    name: 'llama-bench',
    setting: flashAttention ? 'fa on' : 'fa off',
    isa: undefined,
    version: llamaBenchVersion(program),
    async run(job) {
      const args = [
        ...['-m', job.modelPath, '-t', `${job.threads}`, '-r', `${job.repetitions}`, '-o', 'json'],
        ...['-p', `${job.promptTokens}`, '-n', `${job.generatedTokens}`],
        ...['-fa', flashAttention ? '1' : '0'],
      ];
      const rows = lastJson(await runChild(program, args)) as {
        n_prompt: number;
        n_gen: number;
        samples_ts: number[];
      }[];
      return Object.fromEntries(
        rows.map((row) => [
          row.n_gen > 0 ? `tg${row.n_gen}` : `pp${row.n_prompt}`,
          median(row.samples_ts),
        ]),
      );
    },
  };
}

/**
 * @param python one that has openvino-genai
 * @param folder of the model in OpenVINO's format; undefined: the GGUF file
 */
export function openVinoEngine(
  python: string,
  attentionBackend: OpenVinoAttention,
  folder?: string,
): Engine {
  return {
    ...{ name: 'OpenVINO GenAI', setting: attentionBackend, isa: undefined },
    version: openVinoVersion(python),
    async run({ modelPath, ...job }) {
      const question: OpenVinoBench = { ...job, model: folder ?? modelPath, attentionBackend };
      const answer = await runOpenVino(python, 'bench', question);
      const { tokensPerSecond } = answer as { tokensPerSecond: Record<string, number[]> };
      return Object.fromEntries(
        Object.entries(tokensPerSecond).map(([test, rates]) => [test, median(rates)]),
      );
    },
  };
}

/** The first line that `llama-bench --version` prints, to either stream. */
function llamaBenchVersion(program: string): string {
  const { stdout, stderr } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  const line = `${stdout}${stderr}`.split('\n').find((text) => text.startsWith('version:'));
  return line === undefined ? 'built locally, version unknown' : `built locally, ${line}`;
}
