/**
 * Runs a parsed template within bounds, and as Python would. Knows nothing of chat. Built on `@huggingface/jinja` 0.5,
 * whose interpreter is trusted with the language; what is changed here:
 *
 * - every evaluation is counted, and large values and iterations cost more, so a hostile template ends with an error;
 * - `{{ value }}`, `~` and `|string` write values as Python does (`True`, `None`, `{'a': 1}`), the package writes JSON;
 * - `+`, `*`, `%`, `==` and `!=` follow Python's types: adding a list to a string raises, which templates rely on.
 */
import { ChatTemplateError } from './errors.ts';
import {
  type AstNode,
  Environment,
  Interpreter,
  type JinjaEnvironment,
  type RuntimeValue,
} from './jinja-package.ts';
import { type PythonValue, pythonStr } from './python-text.ts';

export interface RenderLimits {
  /** Evaluation steps; one per expression or statement, more for large values. A chat of 1,000 messages takes some 100,000. */
  readonly maxSteps: number;
  /** Length of any string, the result included, in UTF-16 code units. */
  readonly maxCharacters: number;
  /** Length of any list. */
  readonly maxItems: number;
  /** A last resort: wall-clock time of one rendering. */
  readonly timeoutMs: number;
}

export const defaultRenderLimits: RenderLimits = {
  maxSteps: 3_000_000,
  maxCharacters: 8 << 20,
  maxItems: 100_000,
  timeoutMs: 10_000,
};

/** A turn of a loop costs about as much as this many evaluations, even with an empty body. */
const STEPS_PER_ITERATION = 4;
/** Width arguments (`indent(8)`) beyond this ask for memory, not for layout. */
const MAX_WIDTH = 1000;
const MAX_DEPTH = 200;
/** Node holds more than 4,000 on its stack; a macro that calls itself ten times over takes about 120. */
const MAX_EVALUATION_DEPTH = 800;

// The classes of values, which the package does not export.
const probe = new Environment();
const make = <T>(value: T): RuntimeValue => {
  probe.variables.delete('value');
  return probe.set('value', value);
};
const StringValue = make('').constructor as new (value: string) => RuntimeValue;
const IntegerValue = make(1).constructor as new (value: number) => RuntimeValue;
const FloatValue = make(0.5).constructor as new (value: number) => RuntimeValue;
const BooleanValue = make(true).constructor as new (value: boolean) => RuntimeValue;
const ArrayValue = make([]).constructor as new (value: RuntimeValue[]) => RuntimeValue;

/** Node types that do something but print nothing; all others in a body are `{{ expressions }}` or text. */
const STATEMENTS: ReadonlySet<string> = new Set([
  'Set',
  'If',
  'For',
  'Macro',
  'CallStatement',
  'FilterStatement',
  'Break',
  'Continue',
  'Comment',
  'StringLiteral',
  'Output',
]);

/** The fields of AST nodes that hold statements. */
const BODIES: readonly string[] = ['body', 'alternate', 'defaultBlock'];

/** What the interpreter has to know of a program's nodes beside their type. */
export interface PreparedProgram {
  readonly program: AstNode;
  /** Steps per item of the node's value, where it is walked through item by item (loops, filters, `in`). */
  readonly stepsPerItem: ReadonlyMap<object, number>;
  /** Nodes of which a member is taken: undefined raises there, as in Jinja. */
  readonly containers: ReadonlySet<object>;
}

/** Prepares a parsed program, in place: expressions that print are wrapped in `Output` nodes. */
export function prepareProgram(program: AstNode): PreparedProgram {
  const stepsPerItem = new Map<object, number>();
  const containers = new Set<object>();
  const visit = (value: unknown): void => {
    if (value instanceof Map) {
      for (const [key, item] of value) {
        visit(key);
        visit(item);
      }
    } else if (Array.isArray(value)) {
      for (const item of value) visit(item);
    } else if (typeof value === 'object' && value !== null) {
      const node = value as Record<string, unknown>;
      if (node.type === 'For') {
        const iterable = node.iterable as Record<string, unknown>;
        stepsPerItem.set(iterable, STEPS_PER_ITERATION);
        if (iterable.type === 'SelectExpression') {
          stepsPerItem.set(iterable.lhs as object, STEPS_PER_ITERATION);
        }
      } else if (node.type === 'FilterExpression') {
        if (!takesConstantTime(node.filter as AstNode)) stepsPerItem.set(node.operand as object, 1);
      } else if (node.type === 'BinaryExpression') {
        stepsPerItem.set(node.right as object, 1);
      } else if (node.type === 'MemberExpression') {
        containers.add(node.object as object);
      }
      for (const field of BODIES) {
        const body = node[field];
        if (!Array.isArray(body)) continue;
        node[field] = body.map((item: { type: string }) =>
          STATEMENTS.has(item.type) ? item : { type: 'Output', expression: item },
        );
      }
      for (const child of Object.values(node)) visit(child);
    }
  };
  visit(program);
  return { program, stepsPerItem, containers };
}

/** `messages | length` in a loop over messages is common, and costs nothing per message. */
function takesConstantTime(filter: AstNode): boolean {
  return ['length', 'count', 'first', 'last', 'default', 'safe'].includes(String(filter.value));
}

export class BoundedInterpreter extends Interpreter {
  readonly #prepared: PreparedProgram;
  readonly #limits: RenderLimits;
  readonly #deadline: number;
  #steps = 0;
  #depth = 0;
  #nextClock = 1024;

  constructor(environment: JinjaEnvironment, prepared: PreparedProgram, limits: RenderLimits) {
    super(environment);
    this.#prepared = prepared;
    this.#limits = limits;
    this.#deadline = performance.now() + limits.timeoutMs;
  }

  override evaluate(statement: AstNode | undefined, environment: JinjaEnvironment): RuntimeValue {
    this.#spend(1);
    if (statement === undefined) return super.evaluate(statement, environment);
    if (this.#depth >= MAX_EVALUATION_DEPTH) {
      throw limit(`more than ${MAX_EVALUATION_DEPTH} nested evaluations`);
    }
    this.#depth++;
    let value: RuntimeValue;
    try {
      value = this.#evaluateNode(statement, environment);
    } finally {
      this.#depth--;
    }
    const size = sizeOf(value);
    if (value.type === 'StringValue') {
      if (size > this.#limits.maxCharacters) {
        throw limit(
          `a string of ${size} characters; at most ${this.#limits.maxCharacters} are accepted`,
        );
      }
      this.#spend(size >> 6);
    } else if (size > this.#limits.maxItems) {
      throw limit(`a list of ${size} items; at most ${this.#limits.maxItems} are accepted`);
    } else if (size > 0) {
      this.#spend(size * (this.#prepared.stepsPerItem.get(statement) ?? 0));
    } else if (value.type === 'UndefinedValue' && this.#prepared.containers.has(statement)) {
      throw new Error(`${String(statement.value ?? 'a value')} is undefined, so it has no members`);
    }
    return value;
  }

  #evaluateNode(node: AstNode, environment: JinjaEnvironment): RuntimeValue {
    switch (node.type) {
      case 'Output':
        return new StringValue(toText(this.evaluate(node.expression as AstNode, environment)));
      case 'BinaryExpression':
        return this.#evaluateOperator(node, environment) ?? super.evaluate(node, environment);
      case 'FilterExpression':
      case 'FilterStatement': {
        const filter = node.filter as AstNode;
        if (filter.type === 'CallExpression') this.#checkWidths(filter, environment);
        if (node.type === 'FilterExpression' && filter.value === 'string') {
          return new StringValue(toText(this.evaluate(node.operand as AstNode, environment)));
        }
        return super.evaluate(node, environment);
      }
      default:
        return super.evaluate(node, environment);
    }
  }

  /** The operators whose types differ between JavaScript and Python; undefined for all others. */
  #evaluateOperator(node: AstNode, environment: JinjaEnvironment): RuntimeValue | undefined {
    const operator = (node.operator as { value: string }).value;
    if (!'+ * % ~ == !='.split(' ').includes(operator)) return undefined;
    const left = this.evaluate(node.left as AstNode, environment);
    const right = this.evaluate(node.right as AstNode, environment);
    switch (operator) {
      case '~':
        return new StringValue(toText(left) + toText(right));
      case '==':
        return new BooleanValue(isEqual(left, right, 0));
      case '!=':
        return new BooleanValue(!isEqual(left, right, 0));
    }
    const isFloat = left.type === 'FloatValue' || right.type === 'FloatValue';
    const a = numberOf(left);
    const b = numberOf(right);
    if (a !== null && b !== null) {
      if (operator === '%' && b === 0) throw new Error('modulo by zero');
      const result =
        operator === '+' ? a + b : operator === '*' ? a * b : a - b * Math.floor(a / b);
      return isFloat ? new FloatValue(result) : new IntegerValue(result);
    }
    if (operator === '+' && left.type === 'StringValue' && right.type === 'StringValue') {
      return new StringValue(`${left.value}${right.value}`);
    }
    if (operator === '+' && isList(left) && isList(right)) {
      this.#spend(sizeOf(left) + sizeOf(right));
      return new ArrayValue([...itemsOf(left), ...itemsOf(right)]);
    }
    if (operator === '*' && left.type === 'StringValue' && b !== null) {
      const text = left.value as string;
      if (text.length * b > this.#limits.maxCharacters) {
        throw limit(
          `a string of ${text.length * b} characters; at most ${this.#limits.maxCharacters} are accepted`,
        );
      }
      return new StringValue(text.repeat(Math.max(0, b)));
    }
    throw new Error(
      `unsupported operand types for ${operator}: ${nameOf(left)} and ${nameOf(right)}`,
    );
  }

  /** Number arguments of filters are widths: refused where they ask for gigabytes of padding. */
  #checkWidths(call: AstNode, environment: JinjaEnvironment): void {
    const name = (call.callee as AstNode).value;
    if (name !== 'indent' && name !== 'tojson') return;
    for (const argument of call.args as AstNode[]) {
      if (argument.type === 'SpreadExpression' || argument.type === 'KeywordSpreadExpression') {
        throw limit(`unpacked arguments for ${name}`);
      }
      const isKeyword = argument.type === 'KeywordArgumentExpression';
      const value = this.evaluate((isKeyword ? argument.value : argument) as AstNode, environment);
      const width = numberOf(value);
      if (width !== null && !(width <= MAX_WIDTH)) {
        throw limit(`a width of ${width}; at most ${MAX_WIDTH} is accepted`);
      }
    }
  }

  #spend(steps: number): void {
    this.#steps += steps;
    if (this.#steps < this.#nextClock) return;
    if (this.#steps > this.#limits.maxSteps) {
      throw limit(`more than ${this.#limits.maxSteps} steps`);
    }
    if (performance.now() > this.#deadline) throw limit(`more than ${this.#limits.timeoutMs} ms`);
    this.#nextClock = this.#steps + 1024;
  }
}

/** `range()` for templates, refused before a list is made that is longer than allowed. */
export function boundedRange(
  maxItems: number,
): (start: number, stop?: number, step?: number) => number[] {
  return (start, stop, step = 1) => {
    const from = stop === undefined ? 0 : start;
    const to = stop ?? start;
    if (![from, to, step].every(Number.isInteger) || step === 0) {
      throw new Error('range() takes integers, and a step other than 0');
    }
    const count = Math.max(0, Math.ceil((to - from) / step));
    if (count > maxItems)
      throw limit(`a range of ${count} items; at most ${maxItems} are accepted`);
    return Array.from({ length: count }, (_, i) => from + i * step);
  };
}

function limit(what: string): ChatTemplateError {
  return new ChatTemplateError('limit', `the chat template asks for ${what}`);
}

function sizeOf(value: RuntimeValue): number {
  const content: unknown = value.value;
  if (typeof content === 'string') return content.length;
  if (Array.isArray(content)) return content.length;
  return content instanceof Map ? content.size : 0;
}

function isList(value: RuntimeValue): boolean {
  return value.type === 'ArrayValue' || value.type === 'TupleValue';
}

function itemsOf(value: RuntimeValue): RuntimeValue[] {
  return value.value as RuntimeValue[];
}

function numberOf(value: RuntimeValue): number | null {
  const { type, value: content } = value;
  return type === 'IntegerValue' || type === 'FloatValue' || type === 'BooleanValue'
    ? Number(content)
    : null;
}

function isEqual(left: RuntimeValue, right: RuntimeValue, depth: number): boolean {
  if (depth > MAX_DEPTH) throw limit('a comparison of values nested too deeply');
  const a = numberOf(left);
  const b = numberOf(right);
  if (a !== null || b !== null) return a === b;
  if (isList(left) && isList(right)) {
    const items = itemsOf(right);
    return (
      left.type === right.type &&
      itemsOf(left).length === items.length &&
      itemsOf(left).every((item, i) => isEqual(item, items[i]!, depth + 1))
    );
  }
  const leftMap: unknown = left.value;
  const rightMap: unknown = right.value;
  if (leftMap instanceof Map && rightMap instanceof Map) {
    return (
      leftMap.size === rightMap.size &&
      [...leftMap].every(
        ([key, item]) => rightMap.has(key) && isEqual(item, rightMap.get(key), depth + 1),
      )
    );
  }
  return left.type === right.type && left.value === right.value;
}

function nameOf(value: RuntimeValue): string {
  return value.type.replace(/Value$/, '').toLowerCase();
}

/** What `{{ value }}` prints: nothing for undefined, else `str(value)`. */
function toText(value: RuntimeValue): string {
  return value.type === 'UndefinedValue' ? '' : pythonStr(toPython(value, 0));
}

function toPython(value: RuntimeValue, depth: number): PythonValue {
  if (depth > MAX_DEPTH) throw limit('a value nested too deeply');
  const content: unknown = value.value;
  switch (value.type) {
    case 'NullValue':
      return { kind: 'none' };
    case 'BooleanValue':
      return { kind: 'boolean', value: content as boolean };
    case 'IntegerValue':
      return { kind: 'integer', value: content as number };
    case 'FloatValue':
      return { kind: 'float', value: content as number };
    case 'StringValue':
      return { kind: 'string', value: content as string };
    case 'ArrayValue':
    case 'TupleValue':
      return {
        kind: value.type === 'TupleValue' ? 'tuple' : 'list',
        items: itemsOf(value).map((item) => toPython(item, depth + 1)),
      };
    default:
      if (content instanceof Map) {
        const entries = [...(content as Map<string, RuntimeValue>)];
        return {
          kind: 'dict',
          entries: entries.map(([key, item]) => [key, toPython(item, depth + 1)]),
        };
      }
      return { kind: 'string', value: value.type === 'UndefinedValue' ? '' : `<${nameOf(value)}>` };
  }
}
