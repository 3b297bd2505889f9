/** `hasten quantize`: a smaller model from a model. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { AUTOROUND_DEFAULTS } from '../../compress/autoround.ts';
import { METHODS } from '../../compress/calibrated.ts';
import { SYMMETRIES } from '../../compress/group-quantizer.ts';
import { MIXED_FORMATS } from '../../compress/mixed-precision.ts';
import { addCalibrationOptions } from '../calibration.ts';
import { diskFull } from '../disk-full.ts';
import { InterruptedError, UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { addOfflineOption, parseBytes, parseCount, parseInteger, parseNumber } from '../options.ts';
import { note } from '../output.ts';
import {
  isHfLayout,
  isRoundedLayout,
  parseFormats,
  parseGroupSize,
  parseType,
  type QuantizeFlags,
  TARGETS,
  type TargetName,
} from './quantize-flags.ts';
import { calibrateFolder, roundFolder } from './quantize-folder.ts';
import { toGguf, toMixedGguf } from './quantize-gguf.ts';
import { type QuantizeWay, uselessOption } from './quantize-options.ts';

export function define(command: Command): void {
  addCalibrationOptions(addOfflineOption(command))
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .option('--to <type>', `${TARGETS.join(', ')}`, parseType)
    .requiredOption(
      '-o, --output <path>',
      'the new GGUF file, or folder for the layouts of Hugging Face',
    )
    .addOption(
      new Option('--method <name>', 'how codes are chosen; gptq where there is a choice').choices([
        ...METHODS,
        'smoothquant',
        'llm-int8',
      ]),
    )
    .option(
      '--smoothing-strength <x>',
      'how much smoothquant moves, 0 (nothing) to 1',
      parseNumber(0, 1),
      0.5,
    )
    .option(
      '--outlier-threshold <x>',
      'llm-int8 keeps input columns with any |x| of at least this in 16 bits',
      parseNumber(0.001, 1e6),
      6,
    )
    .option(
      '--outlier-share <x>',
      'at most this share of the columns of a linear, the largest first',
      parseNumber(0.001, 1),
      0.03,
    )
    .option(
      '--iterations <n>',
      `steps of --method autoround; ${AUTOROUND_DEFAULTS.iterations} by default`,
      parseInteger(0),
    )
    .option('--bits <n>', 'bits of a code', parseInteger(2), 4)
    .option('--group-size <n>', 'inputs that share a scale, or row', parseGroupSize, 128)
    .addOption(
      new Option('--symmetry <name>', 'where scales and zero points come from')
        .choices(SYMMETRIES)
        .default('asymmetric'),
    )
    .option(
      '--imatrix <file>',
      "importance matrix for a GGUF type, llama.cpp's or ours; auto makes one",
    )
    .option(
      '--target-bpw <x>',
      'a GGUF type for each tensor, so many bits per weight in all',
      parseNumber(1, 16),
    )
    .option(
      '--target-size <size>',
      'likewise, a file of at most this size, such as 100MB',
      parseBytes,
    )
    .option(
      '--formats <list>',
      `types for --target-…, of ${MIXED_FORMATS.join(', ')}`,
      parseFormats,
    )
    .option(
      '--search-tokens <n>',
      'tokens that --target-… compares predictions on',
      parseCount,
      512,
    )
    .option('--chart <file>', 'where --target-… draws its choice; OUTPUT.html by default')
    .option('-t, --threads <n>', 'compute threads', parseInteger(1))
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      `
Types that end in _s, _m and _l give more bits to the tensors that llama.cpp gives more to. A row that
is no multiple of 256 takes the nearest type with blocks of 32. Weights that are quantized already
are dequantized first, and lose a little more. A Hugging Face folder (Llama, Qwen2, Qwen3, Gemma 3,
GLM) is converted on the way, also to f16 or bf16. --imatrix auto runs the calibration text first.

--target-bpw and --target-size choose a type for each tensor: they measure how predictions change with one
tensor rounded at a time and spend bits where they save most. A search that was interrupted goes on.

--to nf4, fp4 and int8 (bitsandbytes) and w8a8 (compressed-tensors int-quantized) write a Hugging Face
folder of a model that is one, rounded to nearest; for w8a8 and int8 --method smoothquant first moves
outliers of the activations into the weights, for int8 --method llm-int8 keeps their columns in 16 bits.

--to gptq, awq and compressed-tensors write a Hugging Face folder in that layout, of a model that is one,
with --method, --bits, --group-size and --symmetry. --method autoround takes longer, and pays at 3 bits.
A run that was interrupted goes on where it was.

Examples:
  $ hasten quantize ./llama --to gptq --bits 4 --group-size 128 -o ./llama-gptq
  $ hasten quantize ./llama --to compressed-tensors --method autoround --bits 3 -o ./llama-3bit
  $ hasten quantize ./llama --to nf4 -o ./llama-nf4
  $ hasten quantize ./llama --to int8 --method llm-int8 -o ./llama-int8
  $ hasten quantize ./llama --target-bpw 4.8 -o llama-mixed.gguf
  $ hasten quantize gemma3-270m --to q4_k_m --imatrix auto -o gemma3-270m-q4_k_m.gguf
`,
    )
    .action(quantize);
}

async function quantize(spec: string, flags: QuantizeFlags, command: Command): Promise<void> {
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
  const { to, targetBpw, targetSize } = flags;
  const numAsked = [to, targetBpw, targetSize].filter((each) => each !== undefined).length;
  if (numAsked !== 1) {
    throw new UsageError('give one of --to, --target-bpw and --target-size');
  }
  const given = Object.keys(flags).filter((name) => command.getOptionValueSource(name) === 'cli');
  const useless = uselessOption({ ...flags, way: wayOf(to) }, given);
  if (useless !== null) throw new UsageError(useless);
  try {
    if (to === undefined) await toMixedGguf(spec, flags, signal);
    else if (isHfLayout(to)) await calibrateFolder(spec, flags, to, signal);
    else if (isRoundedLayout(to)) await roundFolder(spec, flags, to, signal);
    else await toGguf(spec, flags, to, signal);
  } catch (error) {
    const output = resolve(flags.output);
    const kept = keptBeside(output);
    if (error instanceof InterruptedError && kept !== '') note(`interrupted: ${kept}`);
    throw diskFull(error, output, kept);
  }
}

function wayOf(to: TargetName | undefined): QuantizeWay {
  if (to === undefined) return 'mixed';
  if (isHfLayout(to)) return 'grouped';
  return isRoundedLayout(to) ? 'rounded' : 'gguf';
}

/** What the same command goes on with after it has failed. */
function keptBeside(output: string): string {
  const isKept = [`${output}.state`, `${output}.search.json`].some((path) => existsSync(path));
  return isKept
    ? `what was calibrated or measured so far is kept beside ${output}, and the same command goes on after it`
    : '';
}
