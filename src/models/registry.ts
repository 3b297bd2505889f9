/** Every architecture that hasten knows, and how to find one: by our name, by transformers' class, by GGUF's name. */
import type { Architecture, GgufReading, HfReading } from './architecture.ts';
import { gemma3 } from './architectures/gemma3.ts';
import { glm } from './architectures/glm.ts';
import { glm4 } from './architectures/glm4.ts';
import { llama } from './architectures/llama.ts';
import { phi3 } from './architectures/phi3.ts';
import { qwen2 } from './architectures/qwen2.ts';
import { qwen3 } from './architectures/qwen3.ts';
import { UnsupportedModelError } from './errors.ts';
import { ggufFromCanonical } from './tensor-names.ts';

export const ARCHITECTURES: readonly Architecture[] = [
  llama,
  qwen2,
  qwen3,
  gemma3,
  phi3,
  glm,
  glm4,
];

export interface HfArchitecture {
  readonly architecture: Architecture;
  readonly className: string;
  readonly reading: HfReading;
}

export interface GgufArchitecture {
  readonly architecture: Architecture;
  readonly reading: GgufReading;
}

/** @throws {UnsupportedModelError} listing the names there are */
export function architectureNamed(name: string): Architecture {
  const found = ARCHITECTURES.find((architecture) => architecture.name === name);
  return (
    found ??
    refuse(
      '',
      name,
      ARCHITECTURES.map((architecture) => architecture.name),
    )
  );
}

/** The first of `classNames` (config.json's `architectures`) that is known. */
export function hfArchitecture(source: string, classNames: readonly string[]): HfArchitecture {
  for (const className of classNames) {
    for (const architecture of ARCHITECTURES) {
      const reading = Object.hasOwn(architecture.hf, className) && architecture.hf[className];
      if (reading) return { architecture, className, reading };
    }
  }
  return refuse(
    source,
    classNames.join(', '),
    ARCHITECTURES.flatMap(({ hf }) => Object.keys(hf)),
  );
}

export function ggufArchitecture(source: string, name: string): GgufArchitecture {
  for (const architecture of ARCHITECTURES) {
    const reading = Object.hasOwn(architecture.gguf, name) && architecture.gguf[name];
    if (reading) return { architecture, reading };
  }
  return refuse(
    source,
    name,
    ARCHITECTURES.flatMap(({ gguf }) => Object.keys(gguf)),
  );
}

/** What GGUF files call an architecture. */
export function ggufArchitectureName(architecture: string): string {
  return Object.keys(architectureNamed(architecture).gguf)[0]!;
}

/** GGUF's name of a tensor of an architecture; null where GGUF has no place for it. */
export function ggufTensorName(architecture: string, canonicalName: string): string | null {
  const [reading] = Object.values(architectureNamed(architecture).gguf);
  return ggufFromCanonical(canonicalName, reading?.tensorParts);
}

function refuse(source: string, seen: string, names: readonly string[]): never {
  const expected = names.join(', ');
  throw new UnsupportedModelError(
    `${source === '' ? '' : `${source}: `}architecture "${seen}" is not supported; supported: ${expected}`,
    { seen, expected },
  );
}
