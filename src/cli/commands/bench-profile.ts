/** `hasten bench --profile`: time per command of a step, as a table by kind and as an HTML chart. */
import { OpenedModel } from '../../app/open-model.ts';
import { profilePage } from '../../app/profile-page.ts';
import { profileRows, profileStep, type StepProfile } from '../../app/step-profile.ts';
import { writeFileAtomic } from '../../platform/atomic-file.ts';
import { cpuTopology } from '../../platform/topology.ts';
import { createNativeRunner, resolveTarget } from '../../runtime/create-runner.ts';
import { UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress, runnerFlags } from '../model-command.ts';
import { openingOptions } from '../options.ts';
import { formatTable, note, printJson, printLine, styled } from '../output.ts';
import type { BenchFlags } from './bench.ts';

/** Repetitions per one of `-r`: single steps are short. */
const STEPS_PER_REPETITION = 4;

export async function benchProfile(spec: string, flags: BenchFlags): Promise<void> {
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
  const { offline } = flags;
  const target = resolveTarget(flags.target);
  if (target.kind !== 'x64') {
    throw new UsageError(
      `--profile needs machine code: the reference target would run (${target.reason})`,
    );
  }
  const { path } = await findModelWithProgress(spec, { offline, signal });
  using model = new OpenedModel(path, openingOptions(flags));
  const { config, weights } = model.description;
  const shapes = [
    ...flags.promptTokens.map((numTokens) => ({ numTokens, numPast: 0 })),
    ...flags.genTokens.map((numPast) => ({ numTokens: 1, numPast })),
  ];
  const longest = Math.max(...shapes.map(({ numTokens, numPast }) => numTokens + numPast));
  const profiles: StepProfile[] = [];
  for (const threads of flags.threads ?? [cpuTopology().usableCores]) {
    using runner = await createNativeRunner(
      {
        source: weights,
        config,
        ...runnerFlags({ ...flags, threads }),
        maxModelLen: Math.min(config.maxPositionEmbeddings, longest),
        maxTokensPerStep: Math.max(...shapes.map(({ numTokens }) => numTokens)),
        maxSeqs: 1,
        maxLogitRows: 1,
      },
      target.isa,
    );
    for (const shape of shapes) {
      signal.throwIfAborted();
      profiles.push(await profileStep(runner, shape, flags.repetitions * STEPS_PER_REPETITION));
    }
  }
  if (typeof flags.profile === 'string') {
    await writeFileAtomic(flags.profile, profilePage(spec, profiles));
    note(`chart written to ${flags.profile}`);
  }
  if (flags.json) {
    await printJson({
      profiles: profiles.map((profile) => ({ ...profile, rows: profileRows(profile) })),
    });
    return;
  }
  for (const profile of profiles) await printProfile(profile);
}

async function printProfile(profile: StepProfile): Promise<void> {
  const { numTokens, contextLen, threads, stepMs } = profile;
  const title = `${numTokens} ${numTokens === 1 ? 'token' : 'tokens'} to context ${contextLen}, ${threads} ${threads === 1 ? 'thread' : 'threads'}: ${stepMs.toFixed(2)} ms`;
  await printLine(styled('bold', title));
  await printLine(
    formatTable(
      ['WHAT', 'COUNT', 'WORK MS', 'BARRIER MS', 'SHARE', 'GB/S', 'GOPS'],
      profileRows(profile).map((row) => [
        row.name,
        String(row.count),
        row.workMs.toFixed(3),
        row.waitMs.toFixed(3),
        `${(100 * row.share).toFixed(1)}%`,
        row.gigabytesPerSecond > 0 ? row.gigabytesPerSecond.toFixed(1) : '',
        row.gops > 0 ? row.gops.toFixed(0) : '',
      ]),
    ),
  );
  await printLine();
}
