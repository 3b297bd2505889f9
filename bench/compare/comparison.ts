/**
 * Measures engines side by side and sets their speeds against each other and against the machine's limits. Knows rounds and ratios, not how
 * an engine is started nor how a result is shown.
 */
import { waitForQuiet, withForeignLoad } from '../lib/foreign-load.ts';
import { type Summary, summarize } from '../lib/statistics.ts';
import { type MachineReport, mergeMachines } from '../machine.ts';
import type { BenchRates, Engine } from './engines.ts';
import { type ModelWork, prefillOpsPerToken } from './model-work.ts';

export interface ComparedModel {
  readonly name: string;
  readonly path: string;
  readonly work: ModelWork;
}

export interface ComparisonPlan {
  readonly models: readonly ComparedModel[];
  readonly engines: readonly Engine[];
  readonly threads: readonly number[];
  readonly promptTokens: number;
  readonly generatedTokens: number;
  readonly rounds: number;
  readonly repetitions: number;
  /** How a machine that others use too is dealt with; null takes every run as it comes. */
  readonly quiet: QuietRule | null;
}

/** A run counts if others took at most `maxLoad` of all CPU time during it; otherwise it is made again, up to `attempts` times in all. */
export interface QuietRule {
  readonly maxLoad: number;
  readonly attempts: number;
  /** How long each attempt waits for the machine to become quiet. */
  readonly waitMs: number;
}

/** One engine, in one setting, on one test. */
export interface ComparisonRow {
  readonly model: string;
  readonly test: string;
  readonly threads: number;
  readonly engine: string;
  readonly setting: string;
  /** The instruction set it was held to, or `best`. */
  readonly isa: string;
  /** Of the rounds. */
  readonly tokensPerSecond: Summary;
  /** Weight bytes of the file per second, for tg: what the speed means in reading. */
  readonly bytesPerSecond: number | null;
  /** Operations of the matrices per second, for pp. */
  readonly opsPerSecond: number | null;
  /** Share of all CPU time that others took, the worst of the rounds. */
  readonly foreignLoad: number;
  /** Share of the measured read bandwidth (tg) or int8 peak (pp) at this number of threads: of the best of its short rounds, and of their median. */
  readonly limitShare: number;
  readonly medianLimitShare: number;
}

export interface FailedRun {
  readonly model: string;
  readonly engine: string;
  readonly threads: number;
  readonly message: string;
}

export interface ComparisonResult {
  readonly machine: MachineReport;
  readonly rows: readonly ComparisonRow[];
  readonly failures: readonly FailedRun[];
}

/** A run of the schedule: one process. */
interface ScheduledRun {
  readonly model: ComparedModel;
  readonly engine: Engine;
  readonly threads: number;
}

/** Engines of a model and thread count next to each other; every other round backwards, so that a drift of the machine favours none. */
export function schedule(plan: ComparisonPlan): ScheduledRun[][] {
  const order = plan.models.flatMap((model) =>
    plan.threads.flatMap((threads) => plan.engines.map((engine) => ({ model, engine, threads }))),
  );
  return Array.from({ length: plan.rounds }, (_, round) =>
    round % 2 === 0 ? order : order.toReversed(),
  );
}

/**
 * Runs the whole schedule, and measures the machine before and after it. A run that fails is reported and leaves its engine without that figure;
 * the others go on.
 * @param onRun called before each process starts
 */
export async function compare(
  plan: ComparisonPlan,
  measureMachine: () => Promise<MachineReport>,
  onRun: (text: string) => void = () => {},
): Promise<ComparisonResult> {
  const machineBefore = await measureMachine();
  const measured = new Map<string, Measured>();
  const failures: FailedRun[] = [];
  for (const [round, runs] of schedule(plan).entries()) {
    for (const [index, run] of runs.entries()) {
      const { model, engine, threads } = run;
      const label = [engine.name, engine.setting, engine.isa].filter(Boolean).join(' ');
      onRun(
        `round ${round + 1}/${plan.rounds}, run ${index + 1}/${runs.length}: ${model.name}, ${threads}T, ${label}`,
      );
      try {
        const { value: rates, foreignLoad } = await runQuietly(run, plan, onRun);
        for (const [test, rate] of Object.entries(rates)) {
          const key = [model.name, test, threads, label].join('\n');
          const entry = measured.get(key) ?? { run, test, values: [], loads: [] };
          entry.values.push(rate);
          entry.loads.push(foreignLoad);
          measured.set(key, entry);
        }
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error);
        failures.push({ model: model.name, engine: label, threads, message });
        onRun(`  failed: ${message}`);
      }
    }
  }
  const machine = mergeMachines(machineBefore, await measureMachine());
  const rows = [...measured.values()].map((entry) => rowOf(entry, machine));
  return { machine, rows, failures };
}

/** The values of all rounds of one engine on one test. */
interface Measured {
  readonly run: ScheduledRun;
  readonly test: string;
  readonly values: number[];
  readonly loads: number[];
}

/** The quietest of as many attempts as the rule allows. */
async function runQuietly(
  { model, engine, threads }: ScheduledRun,
  plan: ComparisonPlan,
  onRun: (text: string) => void,
): Promise<{ value: BenchRates; foreignLoad: number }> {
  const { promptTokens, generatedTokens, repetitions, quiet } = plan;
  const attempt = () =>
    withForeignLoad(() =>
      engine.run({
        ...{ modelPath: model.path, vocabSize: model.work.vocabSize, threads },
        ...{ promptTokens, generatedTokens, repetitions },
      }),
    );
  if (quiet === null) return await attempt();
  let best: Awaited<ReturnType<typeof attempt>> | null = null;
  for (let i = 0; i < quiet.attempts; i++) {
    await waitForQuiet(quiet.maxLoad, quiet.waitMs);
    const measured = await attempt();
    if (best === null || measured.foreignLoad < best.foreignLoad) best = measured;
    if (!(best.foreignLoad > quiet.maxLoad)) break;
    onRun(`  others took ${(100 * measured.foreignLoad).toFixed(0)}% of the CPU time`);
  }
  return best!;
}

function rowOf({ run, test, values, loads }: Measured, machine: MachineReport): ComparisonRow {
  const { model, engine, threads } = run;
  const tokensPerSecond = summarize(values);
  const isDecode = test.startsWith('tg');
  const rate = tokensPerSecond.median;
  const isa = engine.isa ?? 'best';
  const peaks = machine.isas.find((level) => level.isa === isa) ?? machine.isas[0];
  const numTokens = Number(test.slice(2));
  const bytesPerSecond = isDecode ? rate * model.work.decodeBytes : null;
  const opsPerSecond = isDecode ? null : rate * prefillOpsPerToken(model.work, numTokens);
  const limit = isDecode ? machine.readBandwidth[threads] : peaks?.int8[threads];
  const achieved = bytesPerSecond ?? opsPerSecond ?? Number.NaN;
  return {
    ...{ model: model.name, test, threads, engine: engine.name, setting: engine.setting, isa },
    ...{ tokensPerSecond, bytesPerSecond, opsPerSecond, foreignLoad: Math.max(...loads) },
    limitShare: achieved / (limit?.best ?? Number.NaN),
    medianLimitShare: achieved / (limit?.median ?? Number.NaN),
  };
}

/** hasten's row beside the best setting of one peer, on the same test and instruction set. */
export interface Duel {
  readonly hasten: ComparisonRow;
  readonly peer: ComparisonRow;
  /** Above 1: hasten is faster. */
  readonly ratio: number;
}

export function duels(rows: readonly ComparisonRow[]): Duel[] {
  const ours = rows.filter((row) => row.engine === 'hasten');
  return ours.flatMap((hasten) => {
    const same = rows.filter(
      (row) =>
        row.engine !== 'hasten' &&
        row.model === hasten.model &&
        row.test === hasten.test &&
        row.threads === hasten.threads &&
        row.isa === hasten.isa,
    );
    const names = [...new Set(same.map((row) => row.engine))];
    return names.map((name) => {
      const peer = same
        .filter((row) => row.engine === name)
        .reduce((a, b) => (b.tokensPerSecond.median > a.tokensPerSecond.median ? b : a));
      return { hasten, peer, ratio: hasten.tokensPerSecond.median / peer.tokensPerSecond.median };
    });
  });
}
