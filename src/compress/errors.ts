/** The faults of compressing: settings that do not fit a tensor, weights that are no numbers, text that is too short. */
import { HastenError } from '../platform/errors.ts';

export class CompressError extends HastenError {
  /** The tensor in question, where there is one. */
  readonly tensor: string | null;

  constructor(message: string, options: { tensor?: string; cause?: unknown } = {}) {
    super('compress', message, { cause: options.cause });
    this.tensor = options.tensor ?? null;
  }
}

/** Groups of the asked size do not divide the rows of a tensor. */
export class GroupSizeError extends CompressError {
  readonly groupSize: number;
  readonly columns: number;

  constructor(tensor: string, groupSize: number, columns: number) {
    const fitting = [128, 64, 32, 16].filter((size) => columns % size === 0);
    const choices = [...fitting, `row (one group of all ${columns})`].join(', ');
    super(
      `tensor "${tensor}": groups of ${groupSize} do not divide its rows of ${columns}; sizes that do: ${choices}`,
      { tensor },
    );
    this.groupSize = groupSize;
    this.columns = columns;
  }
}

/** A weight is NaN or infinite. */
export class NonFiniteWeightError extends CompressError {
  readonly row: number;
  readonly column: number;
  readonly value: number;

  constructor(tensor: string, row: number, column: number, value: number) {
    super(
      `tensor "${tensor}": the weight at [${row}, ${column}] is ${value}; a model with such weights cannot be compressed (or run)`,
      { tensor },
    );
    this.row = row;
    this.column = column;
    this.value = value;
  }
}

/** The calibration text gives fewer tokens than asked for. */
export class CalibrationTooShortError extends CompressError {
  readonly numTokens: number;
  readonly wanted: number;

  constructor(numTokens: number, wanted: number, windowTokens: number) {
    super(
      `the calibration text has ${numTokens} tokens; ${wanted} are wanted, in windows of ${windowTokens}. Give a longer text, or ask for fewer tokens (at least one window)`,
    );
    this.numTokens = numTokens;
    this.wanted = wanted;
  }
}
