"""Whole stacks: `up`, `preview`, `refresh`, `destroy`; the engine that runs them and the stack file."""
