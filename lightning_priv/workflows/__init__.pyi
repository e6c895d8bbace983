from . import sample_information as sample_information
