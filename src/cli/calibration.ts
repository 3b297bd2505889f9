/** The options of calibration texts, and what commands make of such a text. */
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { calibrationWindows } from '../app/calibration-text.ts';
import type { OpenedModel } from '../app/open-model.ts';
import { F32Weights } from '../compress/f32-weights.ts';
import { gatherImportance } from '../compress/gather-importance.ts';
import type { Imatrix } from '../compress/imatrix.ts';
import { packageFolder } from '../platform/package-files.ts';
import { UsageError } from './errors.ts';
import { parseCount, readTextFile } from './options.ts';
import { ProgressReporter } from './progress.ts';

const BUILT_IN_TEXT = fileURLToPath(new URL('assets/calibration/public-domain.txt', packageFolder));

/** Where no other is asked for. */
const WINDOW = 512;

export interface CalibrationFlags {
  readonly calibration?: string;
  readonly calibrationChat: boolean;
  readonly tokens: number;
  readonly window?: number;
  readonly threads?: number;
}

export function addCalibrationOptions(command: Command): Command {
  return command
    .option(
      '--calibration <file>',
      'text to calibrate with, or .jsonl with "text" or "messages"; built-in by default',
    )
    .option('--calibration-chat', "put it through the model's chat template", false)
    .option('--tokens <n>', 'tokens of it (k = 1024)', parseCount, 32_768)
    .option('--window <n>', `tokens of a window; ${WINDOW}, or what the model takes`, parseCount);
}

/** @throws {UsageError} if the model takes no sequences of that length */
export function windowOf({ description }: OpenedModel, window: number | undefined): number {
  const longest = description.config.maxPositionEmbeddings;
  if (window === undefined) return Math.min(WINDOW, longest);
  if (window <= longest) return window;
  throw new UsageError(
    `--window ${window}: the model was made for sequences of up to ${longest} tokens`,
  );
}

/**
 * @throws {CalibrationTextError | CalibrationTooShortError} if the text will not do
 * @throws {NoTokenizerError}
 */
export async function calibrationWindowsOf(
  model: OpenedModel,
  { calibration, calibrationChat, tokens, ...flags }: CalibrationFlags,
): Promise<number[][]> {
  const window = windowOf(model, flags.window);
  const content = await readTextFile(calibration ?? BUILT_IN_TEXT);
  const name = basename(calibration ?? BUILT_IN_TEXT);
  const text = { name, content, asChat: calibrationChat, tokens, window };
  return calibrationWindows(text, model.requireTokenizer());
}

/** Runs the calibration text through the model. */
export async function gatherImatrix(
  model: OpenedModel,
  flags: CalibrationFlags,
  signal: AbortSignal,
): Promise<Imatrix> {
  const windows = await calibrationWindowsOf(model, flags);
  const { config, weights } = model.description;
  using progress = new ProgressReporter();
  const importance = await gatherImportance({
    ...{ weights: new F32Weights(weights), config, windows, signal },
    threads: flags.threads ?? 'auto',
    onProgress: (done, total) => progress.update({ label: 'imatrix', done, total, unit: 'items' }),
  });
  const dataset = basename(flags.calibration ?? BUILT_IN_TEXT);
  return { importance, dataset, numChunks: windows.length };
}
