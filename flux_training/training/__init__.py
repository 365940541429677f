"""What a training job is: its folder, dataset manifest, train.yml, run id, weights and stack settings.

Pure apart from reading the job folders: no Pulumi, no network.
"""
