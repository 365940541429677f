"""Job folders and their declarations: `new`, `caption`, `rename`, `sweep`, `lint`, `cancel`, `retry`."""
