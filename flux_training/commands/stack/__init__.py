"""Commands for a whole stack (`up`, `preview`, `refresh`, `destroy`), its engine and its stack file.

Code that runs Pulumi or reads and writes Pulumi.<stack>.yaml belongs here.
"""
