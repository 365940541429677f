"""What is installed here, by whose leave and with which known faults.

For developers (`make lock`, `make licences`, `make audit`): nothing else imports it.
"""
