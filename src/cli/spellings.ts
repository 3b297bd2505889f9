/**
 * Command lines as users of llama.cpp, vLLM and Ollama type them, put into our words: other names of a flag, underscores, the model as a flag.
 * A flag that has no counterpart here is refused with the way out. Knows which options a command has, nothing of what they do.
 */
import type { Command, Option } from 'commander';
import { UsageError } from './errors.ts';

/** What others call a flag of ours; the first one counts that the command has. */
const SPELLINGS: Readonly<Record<string, readonly string[]>> = {
  '--temp': ['--temperature'],
  '--ctx-size': ['--max-model-len'],
  '--num-ctx': ['--max-model-len'],
  '--n-predict': ['--max-tokens', '--gen-tokens'],
  '--predict': ['--max-tokens'],
  '--num-predict': ['--max-tokens'],
  '--max-new-tokens': ['--max-tokens'],
  '--n-prompt': ['--prompt-tokens'],
  '--n-gen': ['--gen-tokens'],
  '--repeat-penalty': ['--repetition-penalty'],
  '-sys': ['--system'],
  '--system-prompt': ['--system'],
  '-j': ['--json-schema'],
  '-jf': ['--json-schema'],
  '--json-schema-file': ['--json-schema'],
  '--grammar-file': ['--grammar'],
  '-f': ['--file', '--text-file'],
  '-o': ['--output'],
  '-np': ['--max-num-seqs'],
  '--parallel': ['--max-num-seqs'],
  '-a': ['--served-model-name'],
  '--alias': ['--served-model-name'],
  '--kv-cache-dtype': ['--kv-cache-type'],
  '-md': ['--draft-model'],
  '--model-draft': ['--draft-model'],
  '--speculative-model': ['--draft-model'],
  '--draft-max': ['--num-speculative-tokens'],
  '--ssl-cert-file': ['--ssl-certfile'],
  '--ssl-key-file': ['--ssl-keyfile'],
};

const CPU = 'hasten computes on the CPU';
const ALWAYS = 'hasten always does that';
const STEPS = 'hasten chooses the size of a step by itself';
const STORED = 'weights are computed with as the file stores them';
const KV_TYPE = 'keys and values have one setting, --kv-cache-type';

/** Flags of others that mean nothing here, and why. */
const WITHOUT_COUNTERPART: Readonly<Record<string, string>> = {
  '-ngl': CPU,
  '--n-gpu-layers': CPU,
  '--gpu-layers': CPU,
  '--gpu-memory-utilization': `${CPU}; --kv-cache-memory bounds what it takes`,
  '-tp': CPU,
  '--tensor-parallel-size': CPU,
  '--device': CPU,
  '-fa': ALWAYS,
  '--flash-attn': ALWAYS,
  '-cb': ALWAYS,
  '--cont-batching': ALWAYS,
  '--enable-prefix-caching': ALWAYS,
  '--enable-chunked-prefill': ALWAYS,
  '--jinja': ALWAYS,
  '--embedding': ALWAYS,
  '--embeddings': ALWAYS,
  '--metrics': ALWAYS,
  '--no-mmap': 'weights are always mapped',
  '-b': STEPS,
  '-ub': STEPS,
  '--batch-size': STEPS,
  '--ubatch-size': STEPS,
  '--max-num-batched-tokens': STEPS,
  '--dtype': `${STORED}; --precision f32 leaves activations alone, --load-in-4bit rounds weights`,
  '--quantization': `${STORED}; --load-in-4bit and --load-in-8bit round them while loading`,
  '-ctk': KV_TYPE,
  '-ctv': KV_TYPE,
  '--cache-type-k': KV_TYPE,
  '--cache-type-v': KV_TYPE,
  '-cnv': 'hasten chat MODEL is a conversation',
  '-i': 'hasten chat MODEL is a conversation',
  '--interactive': 'hasten chat MODEL is a conversation',
  '-hf': 'name the repository in place of the model, such as hf:user/repo:Q4_K_M',
  '--hf-repo': 'name the repository in place of the model, such as hf:user/repo:Q4_K_M',
};

/**
 * @param args what follows the command's name
 * @returns the same in the words of `command`; what nobody knows is left as it is
 * @throws {UsageError} at a flag of another program that has no counterpart
 */
export function inOurWords(args: readonly string[], command: Command): string[] {
  const out: string[] = [];
  let model: string | undefined;
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] ?? '';
    if (arg === '--') {
      out.push(...args.slice(i));
      break;
    }
    const [, flag = '', value = ''] = /^(--?[a-z][\w-]*)(=.*)?$/is.exec(arg) ?? [];
    if (flag === '') {
      out.push(arg);
      continue;
    }
    const next = args[i + 1];
    if (namesModel(flag, command) && (value !== '' || next !== undefined)) {
      model = value === '' ? next : value.slice(1);
      if (value === '') i++;
      continue;
    }
    const option = optionFor(flag, command);
    out.push(option === undefined ? arg : `${spelled(option, flag)}${value}`);
    // A value is nobody's flag, whatever it looks like.
    if (option?.required && value === '' && next !== undefined) {
      out.push(next);
      i++;
    }
  }
  return model === undefined ? out : [model, ...out];
}

/** `-m` and `--model`, for a command that takes the model by its place. */
function namesModel(flag: string, command: Command): boolean {
  const takesModel = command.registeredArguments[0]?.name() === 'model';
  return takesModel && (flag === '-m' || flag === '--model') && !optionNamed(flag, command);
}

/** @throws {UsageError} */
function optionFor(flag: string, command: Command): Option | undefined {
  const dashed = flag.startsWith('--') ? flag.replaceAll('_', '-') : flag;
  for (const name of [flag, dashed, ...(SPELLINGS[dashed] ?? [])]) {
    const option = optionNamed(name, command);
    if (option !== undefined) return option;
  }
  const reason = WITHOUT_COUNTERPART[dashed];
  if (reason !== undefined) throw new UsageError(`${flag}: ${reason}; leave it out`);
  return undefined;
}

function optionNamed(flag: string, { options }: Command): Option | undefined {
  return options.find(({ long, short }) => flag === long || flag === short);
}

function spelled({ long, short }: Option, flag: string): string {
  return flag === short || long === undefined ? flag : long;
}
