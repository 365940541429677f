"""Job folders and their declarations: `new`, `caption`, `rename`, `sweep`, `lint`, `cancel`, `retry`.

Commands that read or change files of jobs/ or entries of the stack file belong here.
"""
