'use strict';
// Prisma without an engine of its own: its driver adapter has a pool of node-postgres. What
// `prisma generate` writes for a schema without models is written out here, because the generator
// wants a program that no package brings.

const { PrismaPg } = require('@prisma/adapter-pg');
const { getPrismaClient } = require('@prisma/client/runtime/client');
const { version: clientVersion } = require('@prisma/client/package.json');
const { giveUpOn, abandon, outside, versions } = require('./loop');

const COMPILER = '@prisma/client/runtime/query_compiler_fast_bg.postgresql';

const PrismaClient = getPrismaClient({
  previewFeatures: [],
  clientVersion,
  engineVersion: 'none',
  activeProvider: 'postgresql',
  inlineSchema: 'datasource db {\n  provider = "postgresql"\n}\n',
  runtimeDataModel: { models: {}, enums: {}, types: {} },
  parameterizationSchema: { strings: [], graph: 'AAAA' },
  compilerWasm: {
    getRuntime: async () => require(`${COMPILER}.js`),
    getQueryCompilerWasmModule: async () => {
      const { wasm } = require(`${COMPILER}.wasm-base64.js`);
      return new WebAssembly.Module(Buffer.from(wasm, 'base64'));
    },
    importName: './query_compiler_fast_bg.js',
  },
});

const open = (options) => {
  const { PGHOST: host, PGPORT: port, PGUSER: user, PGDATABASE: database } = process.env;
  const pool = { host, port: Number(port), user, database, max: 40, ...options };
  return new PrismaClient({ adapter: new PrismaPg(pool) });
};

// Longer than any test; the default of five seconds ends what these shapes leave open.
const WITHOUT_END = { maxWait: 60_000, timeout: 600_000 };

async function transactionWhileOutside(db, answer) {
  await db.$transaction(async (transaction) => {
    await transaction.$queryRaw`select 1`;
    await answer();
  }, WITHOUT_END);
}

// A client for each request, which nobody disconnects.
async function clientPerRequest(options) {
  await open(options).$queryRaw`select 1`;
}

async function query(db) {
  await db.$queryRaw`select 1`;
}

async function transaction(db) {
  await db.$transaction(async (transaction) => {
    await transaction.$queryRaw`select 1`;
  });
}

async function rolledBack(db) {
  const reason = new Error('no such order');
  try {
    await db.$transaction(async (transaction) => {
      await transaction.$queryRaw`select 1`;
      throw reason;
    });
  } catch (error) {
    if (error !== reason) throw error;
  }
}

async function disconnected(options) {
  const db = open(options);
  await query(db);
  await db.$disconnect();
}

module.exports = (options) => {
  const db = open(options);
  return {
    versions: versions('@prisma/client', '@prisma/adapter-pg', 'pg'),
    healthy: () => query(db),
    leaks: {
      late: () => giveUpOn((answer) => transactionWhileOutside(db, answer)),
      new_client: () => clientPerRequest(options),
    },
    rounds: {
      transaction: () => transaction(db),
      rolled_back: () => rolledBack(db),
      disconnected: () => disconnected(options),
    },
    commands: {
      burst: (count) =>
        Promise.all(Array.from({ length: Number(count) }, () => db.$queryRaw`select pg_sleep(0.1)::text`)),
      hold_query: (seconds) => abandon(db.$queryRawUnsafe(`select pg_sleep(${Number(seconds)})::text`)),
      outside_short: (count) =>
        Promise.all(
          Array.from({ length: Number(count) }, () =>
            db.$transaction(async (transaction) => {
              await transaction.$queryRaw`select 1`;
              await outside.call(200);
            }),
          ),
        ),
    },
  };
};
