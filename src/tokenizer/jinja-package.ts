/**
 * The one door to `@huggingface/jinja`, with types: its own declarations import without file extensions, which TypeScript
 * does not resolve under `nodenext`, so everything they export is untyped. May go when they do.
 */
import * as jinja from '@huggingface/jinja';

/** A value while rendering. `type` is the class name (`StringValue`), `value` the JavaScript value inside. */
export interface RuntimeValue {
  readonly type: string;
  readonly value: unknown;
}

/** A node of the syntax tree. */
export interface AstNode {
  readonly type: string;
  readonly [field: string]: unknown;
}

export interface JinjaEnvironment {
  readonly variables: Map<string, RuntimeValue>;
  /** Converts and declares a value. @throws {SyntaxError} if the name is taken */
  set(name: string, value: unknown): RuntimeValue;
}

export interface JinjaInterpreter {
  run(program: AstNode): RuntimeValue;
  evaluate(statement: AstNode | undefined, environment: JinjaEnvironment): RuntimeValue;
}

interface JinjaPackage {
  readonly Environment: new () => JinjaEnvironment;
  readonly Interpreter: new (environment: JinjaEnvironment) => JinjaInterpreter;
  tokenize(
    source: string,
    options: { lstrip_blocks: boolean; trim_blocks: boolean },
  ): readonly unknown[];
  parse(tokens: readonly unknown[]): AstNode;
}

export const { Environment, Interpreter, tokenize, parse } = jinja as unknown as JinjaPackage;
