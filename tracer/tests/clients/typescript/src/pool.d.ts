// As much of pg-pool as is used here.

declare module 'pg-pool' {
  interface Client {
    query(text: string, values?: unknown[]): Promise<{ rows: Record<string, unknown>[] }>;
    release(): void;
  }

  class Pool {
    constructor(options: Record<string, unknown>);
    connect(): Promise<Client>;
  }

  namespace Pool {
    export { Client };
  }

  export = Pool;
}
