// A client as `node/main.js` runs it, in TypeScript on node-postgres: see ../README.md.

import Pool = require('pg-pool');
import { forgottenOrder, healthyOrder, Invoices } from './handlers';

type Step = () => Promise<unknown>;

interface Library {
  versions: string;
  healthy: Step;
  leaks: Record<string, Step>;
}

export = (given: Record<string, unknown>): Library => {
  const pool = new Pool({ max: 60, ...given });
  const invoices = new Invoices(pool);
  return {
    versions: 'TypeScript',
    healthy: () => healthyOrder(pool, 1),
    leaks: {
      forgotten: () => forgottenOrder(pool, 2),
      method: () => invoices.total(3),
      arrow: () => invoices.byArrow(4),
    },
  };
};
