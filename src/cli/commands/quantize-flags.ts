import { InvalidArgumentError } from 'commander';
import type { Method } from '../../compress/calibrated.ts';
import { FILE_TYPE_NAMES, type FileTypeName } from '../../compress/ggml-recipe.ts';
import type { Symmetry } from '../../compress/group-quantizer.ts';
import { MIXED_FORMATS, type MixedFormat } from '../../compress/mixed-precision.ts';
import { HF_LAYOUTS, type HfLayout } from '../../compress/write-hf.ts';
import { ROUNDED_LAYOUTS, type RoundedLayout } from '../../compress/write-rounded.ts';
import type { CalibrationFlags } from '../calibration.ts';
import { parseInteger } from '../options.ts';

export const TARGETS = [...FILE_TYPE_NAMES, ...HF_LAYOUTS, ...ROUNDED_LAYOUTS];
export type TargetName = FileTypeName | HfLayout | RoundedLayout;

export interface QuantizeFlags extends CalibrationFlags {
  readonly to?: TargetName;
  readonly targetBpw?: number;
  readonly targetSize?: number;
  readonly formats?: MixedFormat[];
  readonly searchTokens: number;
  readonly chart?: string;
  readonly output: string;
  readonly method?: Method | 'smoothquant' | 'llm-int8';
  readonly smoothingStrength: number;
  readonly outlierThreshold: number;
  readonly outlierShare: number;
  readonly iterations?: number;
  readonly bits: number;
  readonly groupSize: number | 'row';
  readonly symmetry: Symmetry;
  readonly imatrix?: string;
  readonly threads?: number;
  readonly offline: boolean;
  readonly json: boolean;
}

export function isRoundedLayout(name: TargetName): name is RoundedLayout {
  return (ROUNDED_LAYOUTS as readonly string[]).includes(name);
}

export function isHfLayout(name: TargetName): name is HfLayout {
  return (HF_LAYOUTS as readonly string[]).includes(name);
}

export function parseType(text: string): TargetName {
  const name = text.toLowerCase();
  if ((TARGETS as readonly string[]).includes(name)) return name as TargetName;
  throw new InvalidArgumentError(`Expected one of ${TARGETS.join(', ')}.`);
}

export function parseFormats(text: string): MixedFormat[] {
  return text.split(',').map((name) => {
    const dtype = MIXED_FORMATS.find((each) => each === name.trim().toLowerCase());
    if (dtype === undefined) {
      throw new InvalidArgumentError(`Expected some of ${MIXED_FORMATS.join(', ')}.`);
    }
    return dtype;
  });
}

export function parseGroupSize(text: string): number | 'row' {
  return text === 'row' ? text : parseInteger(1)(text);
}
