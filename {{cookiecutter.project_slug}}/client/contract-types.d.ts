/**
 * The types of `BffClient<Contract>`, where `Contract` is what `bff types` prints: names, parameters,
 * results and payloads are checked. Without a contract they are as general as the protocol.
 */

import type { CallOptions, EventListener, Following, Off, Positions } from "./bff-client.js";

/** What a contract has. */
export interface AnyContract {
  methods: object;
  events: object;
  topics: object;
}

/** The contract of a client that has none. */
export interface Untyped extends AnyContract {
  readonly untyped: true;
}

/** Events that every BFF sends. */
export interface EngineEvents {
  subscribed: { positions: Positions };
  unsubscribed: { topics: string[] };
}

export type ServiceName<C extends AnyContract> = keyof C["methods"] & string;
export type MethodName<C extends AnyContract, S extends ServiceName<C>> = keyof C["methods"][S] &
  string;
export type TopicName<C extends AnyContract> = C extends Untyped
  ? string
  : keyof C["topics"] & string;
export type EventName<C extends AnyContract> = C extends Untyped
  ? string
  : (keyof C["events"] | keyof C["topics"] | keyof EngineEvents) & string;

/** The parameters of a method. */
export type Params<
  C extends AnyContract,
  S extends ServiceName<C>,
  M extends MethodName<C, S>,
> = C["methods"][S][M] extends { params: infer P } ? P : never;
/** The result of a method. */
export type Result<
  C extends AnyContract,
  S extends ServiceName<C>,
  M extends MethodName<C, S>,
> = C["methods"][S][M] extends { result: infer R } ? R : never;
/** The payload of an event, or of the messages of a topic. */
export type Payload<C extends AnyContract, T extends string> = T extends keyof C["events"]
  ? C["events"][T]
  : T extends keyof C["topics"]
    ? C["topics"][T]
    : T extends keyof EngineEvents
      ? EngineEvents[T]
      : unknown;

export type Arguments<P, O = CallOptions> = undefined extends P
  ? [params?: P, options?: O]
  : [params: P, options?: O];

export type Request<C extends AnyContract> = C extends Untyped
  ? <R = unknown>(
      service: string,
      method: string,
      params?: object,
      options?: CallOptions,
    ) => Promise<R>
  : <S extends ServiceName<C>, M extends MethodName<C, S>>(
      service: S,
      method: M,
      ...rest: Arguments<Params<C, S, M>>
    ) => Promise<Result<C, S, M>>;

export type Command<C extends AnyContract> = C extends Untyped
  ? (service: string, method: string, params?: object, options?: CallOptions) => Promise<unknown>
  : <S extends ServiceName<C>, M extends MethodName<C, S>>(
      service: S,
      method: M,
      ...rest: Arguments<Params<C, S, M>>
    ) => Promise<unknown>;

export type Subscribe<C extends AnyContract> = (topic: TopicName<C>) => Promise<void>;
export type Unsubscribe<C extends AnyContract> = (topic: TopicName<C>) => void;

export type Follow<C extends AnyContract> = C extends Untyped
  ? <E = unknown>(topic: string, listener: EventListener<E>) => Following
  : <T extends TopicName<C>>(topic: T, listener: EventListener<Payload<C, T>>) => Following;

/** Listens to an event; `R` is what the function returns. */
export type Listen<C extends AnyContract, R> = C extends Untyped
  ? <E = unknown>(topic: string, listener: EventListener<E>) => R
  : <T extends EventName<C> | "*">(topic: T, listener: EventListener<Payload<C, T>>) => R;

export type On<C extends AnyContract> = Listen<C, Off>;
